"""The tool that finds a defect finds one that was put there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.model import understand
from tests.architectures.encoder_configs import task_to_ask_for, with_class
from tests.architectures.encoder_goldens import golden_checkpoint, golden_classes
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config
from tests.architectures.running import FLOAT_TOLERANCE
from tests.golden.encoder_cases import encoder_golden_cases
from tests.parity.encoder_reference import is_known
from tests.parity.first_divergence import divergences, main
from tests.parity.reference import load_reference

IDS = np.random.default_rng(1).integers(3, 104, 20).tolist()
ENCODERS = [
    (case, class_name)
    for case, golden in encoder_golden_cases().items()
    for class_name in golden_classes(case)
    if task_to_ask_for(with_class(golden.config, class_name)) is None
    and is_known(with_class(golden.config, class_name))
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = base_config("qwen3", head_dim=32)
    return write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config, seed=7))


def test_every_block_of_a_sound_export_agrees(checkpoint: Path) -> None:
    found = _found(checkpoint, load_reference(checkpoint))
    assert len(found) == 9
    assert max(found.values()) < FLOAT_TOLERANCE


@pytest.mark.parametrize(("case", "class_name"), ENCODERS)
def test_every_block_of_a_sound_encoder_agrees(case: str, class_name: str, tmp_path: Path) -> None:
    checkpoint = golden_checkpoint(case, class_name, tmp_path / "checkpoint")
    found = _found(checkpoint, load_reference(checkpoint))
    assert {"embed_tokens", "layers.0.qkv_proj", "layers.1.down_proj"} < set(found)
    assert max(found.values()) < FLOAT_TOLERANCE


def test_the_first_block_that_differs_is_the_damaged_one(checkpoint: Path) -> None:
    reference = load_reference(checkpoint)
    with torch.no_grad():
        reference.model.layers[1].self_attn.k_norm.weight *= 1.5
    assert _wrong(checkpoint, reference) == ["layers.1.o_proj", "layers.1.gate_up_proj", "layers.1.down_proj"]


def test_the_first_block_of_an_encoder_that_differs_is_the_damaged_one(tmp_path: Path) -> None:
    checkpoint = golden_checkpoint("bert", "BertForSequenceClassification", tmp_path / "checkpoint")
    reference = load_reference(checkpoint)
    with torch.no_grad():
        reference.bert.encoder.layer[1].attention.output.LayerNorm.bias += 1
    assert _wrong(checkpoint, reference) == ["layers.1.up_proj", "layers.1.down_proj", "pooler", "classifier"]


def test_the_command_names_it(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(checkpoint)
    assert capsys.readouterr().out.endswith("first to differ by more than 0.0001: none\n")


def _found(checkpoint: Path, reference: Any) -> dict[str, float]:
    return dict(divergences(understand(open_checkpoint(checkpoint)), reference, IDS))


def _wrong(checkpoint: Path, reference: Any) -> list[str]:
    return [tap for tap, difference in _found(checkpoint, reference).items() if difference > FLOAT_TOLERANCE]
