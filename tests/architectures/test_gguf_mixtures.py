"""Mixtures of experts as hub folders and as .gguf files: the packages must say exactly the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.architectures.gguf_checkpoints import write_gguf
from tests.architectures.gguf_moe_families import MOE_FAMILIES
from tests.architectures.moe_tables import moe_base
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.running import export_and_load
from tests.golden.moe_cases import moe_cases

# What a GGUF file does not say is what llama.cpp takes for granted.
ASSUMED = {
    "mixtral": {"sliding_window": None},
    "qwen2_moe": {"mlp_only_layers": []},
    "phimoe": {"router_jitter_noise": 0.01},
}
CASES = {case.config["model_type"]: case.config for case in moe_cases()}


@pytest.mark.parametrize("model_type", MOE_FAMILIES)
def test_logits_are_the_same(model_type: str, tmp_path: Path) -> None:
    config = {**CASES[model_type], **ASSUMED.get(model_type, {})}
    tensors = random_tensors(config, seed=3)
    hub = export_and_load(write_checkpoint(tmp_path / "hub", config, tensors), tmp_path / "from-hub")
    file = export_and_load(write_gguf(tmp_path / "model.gguf", config, tensors), tmp_path / "from-gguf")
    ids = np.random.default_rng(4).integers(3, config["vocab_size"], 24).tolist()
    assert np.array_equal(hub.logits(ids), file.logits(ids))


def test_every_mixture_has_a_gguf_family() -> None:
    assert set(MOE_FAMILIES) == set(CASES)
    assert all(moe_base(model_type) for model_type in MOE_FAMILIES)
