"""Configs of models with latent attention: the scale of scores, and what stands in the way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import UnsupportedConfig
from edgelm_export.architectures import REGISTRY
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.config import DeepseekConfig
from edgelm_export.read_config import read_config
from edgelm_export.read_deepseek_config import read_deepseek_config
from tests.architectures.latent_tables import latent_base

YARN = {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.7}


def read(model_type: str = "deepseek_v3", **changes: Any) -> DeepseekConfig:
    raw = {key: value for key, value in (latent_base(model_type) | changes).items() if value != "absent"}
    checkpoint = Checkpoint("hf", raw, {}, {}, (Path("config.json"),), dict)
    return read_config(checkpoint, REGISTRY[model_type].model_types[model_type], read_deepseek_config)


def test_the_cache_holds_one_latent_a_layer() -> None:
    c = read()
    (layer,) = set(c.cache_geometry("float32").layers)
    assert (layer.num_key_value_heads, layer.head_dim, layer.latent) == (1, 24 + 8, True)
    assert c.latent.scale == pytest.approx(24**-0.5)


def test_yarn_sharpens_the_scores_and_the_rotary_part_apart() -> None:
    c = read(rope_scaling=YARN)
    (rope,) = set(c.ropes)
    assert rope is not None
    assert c.latent.scale == pytest.approx(24**-0.5 * (0.07 * math.log(40) + 1) ** 2)
    assert rope.attention_factor == pytest.approx((0.1 * math.log(40) + 1) / (0.07 * math.log(40) + 1))
    assert read(rope_scaling={**YARN, "mscale_all_dim": 0}).latent.scale == pytest.approx(24**-0.5)


def test_what_configs_leave_unsaid_is_what_transformers_assumes() -> None:
    c = read(kv_lora_rank="absent", qk_rope_head_dim="absent", v_head_dim="absent", scoring_func="absent")
    assert (c.latent.kept_dim, c.latent.v_head_dim, c.head_dim) == (512 + 64, 128, 64)
    assert (c.moe.scoring_func, c.moe.group_score, c.moe.score_correction) == ("sigmoid", "top2", True)
    v2 = read("deepseek_v2").moe
    assert (v2.scoring_func, v2.score_correction) == ("softmax", False)


def test_a_head_dim_that_is_stated_too_changes_nothing() -> None:
    assert read(head_dim=8) == read()
    assert read(rope_interleave=False).ropes != read(rope_interleave=True).ropes == read().ropes


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("deepseek_v3", {"kv_lora_rank": 20}, "kv_lora_rank 20 and qk_rope_head_dim 8 add up to no multiple of 8"),
        (
            "deepseek_v3",
            {"q_lora_rank": None, "attention_bias": True},
            "attention_bias is supported with q_lora_rank only",
        ),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob True is not supported"),
        ("deepseek_v3", {"topk_method": "best"}, "topk_method 'best' is not supported"),
        ("deepseek_v3", {"v_head_dim": 0}, "v_head_dim is 0, expected a whole number from 1"),
    ],
)
def test_what_stands_in_the_way_is_said(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        read(model_type, **changes)
