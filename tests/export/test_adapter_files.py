"""The folder of an adapter: what is read of it, and everything in it that is not plain LoRA, named at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import CheckpointError, UnsupportedConfig
from edgelm_export.checkpoint.adapter import open_adapter
from tests.export.adapters import ALPHA, RANK, factors, write_adapter

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


def _scales(folder: Path, **config: Any) -> dict[str, float]:
    tensors = factors(Q, (8, 6)) | factors(V, (4, 6), config.get("rank_pattern", {}).get("v_proj", RANK))
    return {name: pair.scale for name, pair in open_adapter(write_adapter(folder, tensors, **config)).pairs.items()}


def test_pairs_go_by_the_names_of_modules(tmp_path: Path) -> None:
    adapter = open_adapter(write_adapter(tmp_path / "pirate", factors(Q, (8, 6))))
    (pair,) = adapter.pairs.values()
    assert (adapter.id, adapter.base, list(adapter.pairs)) == ("pirate", "some/base", [Q])
    assert (pair.a.shape, pair.b.shape, pair.scale) == ((RANK, 6), (8, RANK), ALPHA / RANK)
    assert [file.name for file in adapter.files] == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_scale_is_alpha_over_the_rank_or_its_root(tmp_path: Path) -> None:
    assert _scales(tmp_path) == {Q: 1.5, V: 1.5}
    assert _scales(tmp_path, use_rslora=True) == {Q: 3.0, V: 3.0}


def test_patterns_give_single_modules_a_rank_and_an_alpha(tmp_path: Path) -> None:
    assert _scales(tmp_path, rank_pattern={"v_proj": 3}) == {Q: 1.5, V: 2.0}
    assert _scales(tmp_path, alpha_pattern={r"layers\.\d+\.self_attn.q_proj": 12, "q_proj": 1}) == {Q: 3.0, V: 1.5}
    assert _scales(tmp_path, alpha_pattern={"^model.layers.0.self_attn.v_proj": 12, "proj": 1}) == {Q: 1.5, V: 3.0}
    assert _scales(tmp_path, alpha_pattern={"[qv]_proj": 2}) == {Q: 0.5, V: 0.5}


def test_all_that_is_not_plain_lora_is_listed_at_once(tmp_path: Path) -> None:
    tensors = {
        **factors(Q, (8, 6)),
        f"base_model.model.{Q}.lora_magnitude_vector": np.ones(8, np.float32),
        "base_model.model.lm_head.weight": np.ones((4, 6), np.float32),
        "base_model.model.model.embed_tokens.lora_embedding_A": np.ones((4, 6), np.float32),
    }
    config: dict[str, Any] = {
        "use_dora": True,
        "modules_to_save": ["lm_head"],
        "bias": "all",
        "target_parameters": ["mlp.experts.gate_up_proj"],
        "init_lora_weights": "pissa",
        "some_new_key": {"on": 1},
        "alora_invocation_tokens": None,
    }
    with pytest.raises(UnsupportedConfig, match="this adapter cannot be used") as caught:
        open_adapter(write_adapter(tmp_path, tensors, **config))
    for expected in (
        "use_dora true is not supported",
        "modules_to_save \"['lm_head']\" is not supported",
        "bias 'all' is not supported (only 'none')",
        "target_parameters",
        "init_lora_weights 'pissa' changes the base model's weights",
        "some_new_key",
        "no lora_A or lora_B of a linear layer: 'base_model.model.lm_head.weight', "
        "'base_model.model.model.embed_tokens.lora_embedding_A', "
        f"'base_model.model.{Q}.lora_magnitude_vector'",
    ):
        assert expected in str(caught.value)
    assert "alora" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"r": 0}, "r is 0, expected a whole number from 1"),
        ({"r": 5}, "has rank 4 in the file and 5 in adapter_config.json"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x', expected a positive number"),
        ({"use_rslora": 1}, "use_rslora is 1, expected true or false"),
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern: 'q_proj' is no positive number"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern is .*, expected an object of pattern: number"),
        ({"rank_pattern": {"(a+)+b": 4}}, r"rank_pattern: '\(a\+\)\+b' is no pattern that is safe to match"),
        ({"rank_pattern": {".*.*.*x": 4}}, "is no pattern that is safe to match"),
        ({"rank_pattern": {"(": 4}}, "is no pattern that is safe to match"),
    ],
)
def test_settings_that_make_no_sense_are_named(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        open_adapter(write_adapter(tmp_path, factors(Q, (8, 6)), **config))


def test_factors_that_do_not_multiply_are_named(tmp_path: Path) -> None:
    a, b = factors(Q, (8, 6))
    tensors = {**factors(Q, (8, 6)), **factors(V, (8, 6))}
    tensors[b] = np.ones((8, 3), np.float32)
    del tensors[a.replace(Q, V)]
    with pytest.raises(
        UnsupportedConfig, match=r"q_proj has lora_A \[4, 6\] and lora_B \[8, 3\], which do not"
    ) as caught:
        open_adapter(write_adapter(tmp_path, tensors))
    assert f"{V} has a lora_B and no lora_A" in str(caught.value)


def test_an_adapter_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedConfig, match="it changes no linear layer"):
        open_adapter(write_adapter(tmp_path, {}))


def test_a_folder_that_is_no_adapter_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no adapter_config.json, so it is no PEFT adapter"):
        open_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="has no adapter_model.safetensors; it holds 'adapter_config.json'"):
        open_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is a pickle, which is never read"):
        open_adapter(tmp_path)
