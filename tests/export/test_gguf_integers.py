"""The integers of GGUF's block types: with their scales and offsets they are the values that the gguf package makes of the same bytes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from edgelm.providers import PROVIDERS
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.checkpoint.gguf_integers import TYPES
from tests.architectures.gguf_checkpoints import write_gguf
from tests.architectures.random_checkpoints import random_tensors
from tests.architectures.random_configs import base_config, rope_keys
from tests.architectures.running import FLOAT_TOLERANCE, distance, export_and_load
from tests.export import builders

ROWS, BLOCKS = 5, 3
TIED = base_config(
    "llama", hidden_size=64, intermediate_size=192, tie_word_embeddings=True, **rope_keys("default", 1e4, "rope_theta")
)
IDS = range(5, 45)


@pytest.mark.parametrize("name", TYPES)
def test_random_blocks_taken_apart_are_their_values(name: str, tmp_path: Path) -> None:
    kind = GGMLQuantizationType[name]
    values, nbytes = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(6).integers(0, 256, (ROWS, BLOCKS * nbytes), np.uint8)
    file = builders.write_gguf(tmp_path / "x.gguf", {"general.architecture": "llama"}, {"x": (name, raw)})
    grid = open_checkpoint(file).tensors["x"].grid
    assert grid is not None
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # some scales are NaN
        warnings.simplefilter("ignore")
        expected = dequantize(raw, kind).reshape(ROWS, BLOCKS * values)
        found = grid.values(0, ROWS)
        np.testing.assert_array_equal(grid.values(1, 3), found[1:3])
    known = np.isfinite(expected)
    assert known.mean() > 0.7
    np.testing.assert_array_equal(found[known], expected[known])
    assert not np.isfinite(found[~known]).any()
    assert grid.read(0, ROWS).codes.max() < 1 << grid.bits


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_package_that_keeps_the_integers_is_the_float_model(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "x.gguf", TIED, random_tensors(TIED, seed=3), kind)
    expected = export_and_load(file, tmp_path / "float").logits(IDS)
    monkeypatch.setitem(PROVIDERS, "cpu", replace(PROVIDERS["cpu"], accuracy_level=0))
    kept = export_and_load(file, tmp_path / "kept", "keep")
    assert distance(kept.logits(IDS), expected) < FLOAT_TOLERANCE
    if kind.startswith("Q"):
        fast = export_and_load(file, tmp_path / "fast", "keep-fast")
        assert distance(fast.logits(IDS), expected) < 1e-3  # offsets in float16
        assert fast.package.size < kept.package.size * 1.01


def test_parts_of_different_types_are_stored_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = random_tensors(TIED, seed=3)
    file = write_gguf(tmp_path / "x.gguf", TIED, tensors, "Q4_0", {"attn_v.weight": "Q8_0", "ffn_gate.weight": "Q4_1"})
    expected = export_and_load(file, tmp_path / "float").logits(IDS)
    monkeypatch.setitem(PROVIDERS, "cpu", replace(PROVIDERS["cpu"], accuracy_level=0))
    assert distance(export_and_load(file, tmp_path / "kept", "keep").logits(IDS), expected) < FLOAT_TOLERANCE
