"""What only mixtures of experts have: layers for later tokens, counts that contradict the tensors, probes in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import UnsupportedArchitecture, UnsupportedConfig, WrongShape
from edgelm.manifest import PROBES
from edgelm.text_generation import DecoderModel
from tests.architectures.moe_tables import moe_base
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import Config
from tests.architectures.running import export_and_load


def exported(folder: Path, config: Config, tensors: Any = None) -> DecoderModel:
    write_checkpoint(folder / "checkpoint", config, tensors or random_tensors(config, seed=5))
    return export_and_load(folder / "checkpoint", folder / "package", "int4")


def test_layers_that_predict_later_tokens_are_left_out(tmp_path: Path) -> None:
    config = moe_base("glm4_moe", num_hidden_layers=2, num_nextn_predict_layers=1)
    tensors = random_tensors(config, seed=5)
    extra = {f"model.layers.2.{name}": np.ones((4, 4), np.float32) for name in ("eh_proj.weight", "mlp.up_proj.weight")}
    assert exported(tmp_path, config, {**tensors, **extra}).logits([5, 6]).shape == (2, config["vocab_size"])


def test_a_count_of_experts_that_contradicts_the_tensors_is_named(tmp_path: Path) -> None:
    config = moe_base("mixtral", num_local_experts=4)
    tensors = random_tensors(config, seed=5)
    with pytest.raises(WrongShape, match=r"router\.weight <- .*gate\.weight: \[4, 52\] in the file, \[6, 52\]"):
        exported(tmp_path, {**config, "num_local_experts": 6}, tensors)
    assert not (tmp_path / "package").exists()


def test_windows_that_nobody_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedConfig, match="without layer_types, and transformers 4 and 5 give windows"):
        exported(tmp_path, moe_base("qwen2_moe", use_sliding_window=True), {})


def test_the_nearest_of_an_unknown_mixture_has_the_same_experts(tmp_path: Path) -> None:
    config = moe_base("mixtral")
    tensors = random_tensors(config, seed=5)
    with pytest.raises(
        UnsupportedArchitecture, match=r"the nearest is mixtral, with 13 kinds .*; here is no .*mlp\.down_proj"
    ) as caught:
        exported(tmp_path, {**config, "model_type": "mixtral9"}, tensors)
    assert "does not read" not in str(caught.value)


def test_a_package_carries_a_probe_of_its_experts(tmp_path: Path) -> None:
    manifest = exported(tmp_path, moe_base("qwen3_moe")).package.manifest
    assert "com.microsoft QMoE" in [probe["operator"] for probe in manifest.probes.values()]
    assert PROBES in manifest.files
