"""The tool that finds a defect finds one that was put there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config
from tests.architectures.running import FLOAT_TOLERANCE
from tests.parity.first_divergence import divergences, main
from tests.parity.reference import load_reference

IDS = np.random.default_rng(1).integers(3, 128, 20).tolist()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = base_config("qwen3", head_dim=32)
    return write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config, seed=7))


def test_every_block_of_a_sound_export_agrees(checkpoint: Path) -> None:
    found = dict(divergences(checkpoint, load_reference(checkpoint), IDS))
    assert len(found) == 9
    assert max(found.values()) < FLOAT_TOLERANCE


def test_the_first_block_that_differs_is_the_damaged_one(checkpoint: Path) -> None:
    reference = load_reference(checkpoint)
    with torch.no_grad():
        reference.model.layers[1].self_attn.k_norm.weight *= 1.5
    wrong = [tap for tap, difference in divergences(checkpoint, reference, IDS) if difference > FLOAT_TOLERANCE]
    assert wrong == ["layers.1.o_proj", "layers.1.gate_up_proj", "layers.1.down_proj"]


def test_the_command_names_it(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(checkpoint)
    assert capsys.readouterr().out.endswith("first to differ by more than 0.0001: none\n")
