"""The same source and options give the same bytes, whatever the threads, the hash seed and the kernels of the linear algebra library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgelm.package import sha256
from tests.architectures.random_checkpoints import tiny_tokenizer
from tests.export.adapters import adapt, float_tensors
from tests.runtime.encoders import encoder_config, write_encoder

ROOT = Path(__file__).parents[2]
MAIN = "from edgelm.cli import main; main()"
SEQ2SEQ = ROOT / "tests" / "golden" / "t5-gated"

# What must not matter. ONNX Runtime's threads and those of the linear algebra library follow the first two.
SETTINGS = (
    {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
    {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "1", "OPENBLAS_CORETYPE": "Prescott"},
)


def _digests(source: Path, folder: Path, options: list[str], settings: dict[str, str]) -> dict[str, str]:
    command = [sys.executable, "-c", MAIN, "export", str(source), "-o", str(folder), "--no-verify", *options]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {file.name: sha256(file) for file in sorted(folder.iterdir())}


def _same(source: Path, tmp_path: Path, *options: str) -> None:
    first, second = (_digests(source, tmp_path / f"out{i}", list(options), one) for i, one in enumerate(SETTINGS))
    assert first == second
    assert "edgelm.json" in first


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_decoders(precision: str, checkpoint: Path, tmp_path: Path) -> None:
    adapt(float_tensors(checkpoint), tmp_path / "one", r".*\.(q_proj|down_proj)", seed=1)
    adapt(float_tensors(checkpoint), tmp_path / "two", r".*\.(v_proj|up_proj)", seed=2)
    _same(
        checkpoint,
        tmp_path,
        "--precision",
        precision,
        "--adapter",
        str(tmp_path / "one"),
        "--keep-adapter",
        f"x={tmp_path / 'two'}",
    )


def test_encoders_that_are_calibrated(tmp_path: Path) -> None:
    _same(write_encoder(tmp_path / "source", encoder_config()), tmp_path, "--precision", "int8")


def test_encoder_decoders(tmp_path: Path) -> None:
    source = Path(shutil.copytree(SEQ2SEQ, tmp_path / "source"))
    vocab_size = json.loads((source / "config.json").read_text())["vocab_size"]
    (source / "tokenizer.json").write_text(tiny_tokenizer(vocab_size))
    _same(source, tmp_path, "--precision", "int4")


def test_scales_of_a_cache_of_integers(checkpoint: Path, tmp_path: Path) -> None:
    _same(checkpoint, tmp_path, "--precision", "int4", "--kv-cache", "int8")
