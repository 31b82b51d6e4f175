"""Latent attention: what its cache weighs, in real widths, and what a checkpoint of V3 holds besides the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.errors import UnusedWeights
from edgelm_export.inspection import inspect_checkpoint
from tests.architectures.latent_tables import latent_base
from tests.architectures.random_checkpoints import Tensors, random_tensors, write_checkpoint
from tests.architectures.random_configs import Config
from tests.architectures.running import FLOAT_TOLERANCE, distance, export_and_load, step_logits

_RANKS = {"q_lora_rank": 48, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}


def test_a_token_takes_its_latent_and_its_rotary_key_and_no_more(tmp_path: Path) -> None:
    config = {**latent_base("deepseek_v3"), **_RANKS, "num_hidden_layers": 2}
    model = export_and_load(
        write_checkpoint(tmp_path / "source", config, random_tensors(config, 0)), tmp_path / "package"
    )
    decoder: Any = model.decoder(1)
    ids = np.random.default_rng(0).integers(3, 128, 300).tolist()
    found = step_logits(model, ids[:280], ids[280:])
    assert distance(found, model.logits(ids)[279:]) < FLOAT_TOLERANCE
    decoder.prefill(0, ids)
    assert decoder.cache.nbytes == decoder.cache.max_length * (512 + 64) * 2 * 4
    assert list(decoder.cache.rows(0, 1)[0]) == ["past_key_values.0.key", "past_key_values.1.key"]


def _with_further_layer(config: Config) -> Tensors:
    """The tensors of a checkpoint that has one layer more, and what stands around it."""
    tensors = random_tensors(config, 0)
    last, name = f"model.layers.{config['num_hidden_layers'] - 1}.", f"model.layers.{config['num_hidden_layers']}."
    further = {name + key.removeprefix(last): values for key, values in tensors.items() if key.startswith(last)}
    size = config["hidden_size"]
    return tensors | further | {f"{name}eh_proj.weight": np.ones((size, 2 * size), np.float32)}


def test_layers_that_predict_further_tokens_are_left_out_and_named(tmp_path: Path) -> None:
    config = latent_base("deepseek_v3") | {"num_nextn_predict_layers": 1}
    source = write_checkpoint(tmp_path / "source", config, _with_further_layer(config))
    model = export_and_load(source, tmp_path / "package")
    (note,) = model.package.manifest.notes
    assert "num_nextn_predict_layers: 1 layers that predict tokens beyond the next are left out" in note


def test_inspect_says_what_heads_attend_to(tmp_path: Path) -> None:
    config = {**latent_base("deepseek_v3"), **_RANKS}
    facts = inspect_checkpoint(write_checkpoint(tmp_path / "source", config, random_tensors(config, 0)))
    assert facts["attention"] == "2 query heads on one latent of 512 and a rotary key of 64"
    assert facts["cache_bytes_per_1000_tokens"] == 1000 * (512 + 64) * 2 * 4


def test_a_layer_that_the_config_does_not_speak_of_is_an_error(tmp_path: Path) -> None:
    config = latent_base("deepseek_v3")
    source = write_checkpoint(tmp_path / "source", config, _with_further_layer(config))
    with pytest.raises(UnusedWeights, match=r"model.layers.2.eh_proj.weight"):
        edgelm.export(source, tmp_path / "package", precision="fp32", verify=False)
