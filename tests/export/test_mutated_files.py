"""Valid files with random damage: each opens and reads, or is refused with a CheckpointError; quickly, and in little memory."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint import Checkpoint, open_checkpoint
from edgelm_export.checkpoint.gguf import open_gguf
from tests.export.builders import mixed_gguf, safetensors_bytes, safetensors_header, write_hub_folder

CASES = 500  # a format and seed
HUGE = (1 << 64) - 1


def _mutations(good: bytes, header: int, seed: int) -> list[bytes]:
    """Byte flips, extreme numbers, cuts, insertions and repeats, most of them in the header; the same for each run."""
    source = random.Random(seed)
    extremes = [0, 1, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, HUGE]
    results: list[bytes] = []
    for _ in range(CASES):
        file = bytearray(good)
        for _ in range(source.choice([1, 1, 1, 2, 4, 16])):
            at = source.randrange(max(1, min(header, len(file)) if source.random() < 0.9 else len(file)))
            kind = source.randrange(7)
            if kind <= 1:
                file[at : at + 1] = bytes([source.randrange(256)])
            elif kind == 2:
                file[at : at + 1] = bytes([file[at] ^ (1 << source.randrange(8))]) if at < len(file) else b""
            elif kind == 3:
                file[at : at + 8] = struct.pack("<Q", source.choice(extremes))
            elif kind == 4:
                del file[at : at + source.choice([1, 4, 8, 100, 1 << 20])]
            elif kind == 5:
                file[at:at] = source.choice(
                    [b"0", b"9" * 30, b"-", b'"', b"[[", b"{}", b"\\u0000", bytes(8), b"\xff" * 8]
                )
            else:
                file[at:at] = file[at : at + source.choice([4, 8, 64])]
        results.append(bytes(file))
    return results


def _opened(open_it: Callable[[], Checkpoint]) -> Checkpoint | None:
    """The checkpoint after every tensor was read, or None where that was refused; no other exception may come."""
    try:
        checkpoint = open_it()
        checkpoint.tokenizer_files()
        for tensor in checkpoint.tensors.values():
            whole = tensor.read()
            assert (whole.shape, whole.dtype) == (tensor.shape, np.float32)
            np.testing.assert_array_equal(tensor.read(0, 1), whole[:1] if tensor.shape else whole)
        return checkpoint
    except CheckpointError as error:
        message = str(error)
    assert len(message) < 2000
    assert message.isprintable()
    return None


class _Bounds:
    """Fails when the block inside took more time or Python memory than a few small files can need."""

    def __enter__(self) -> None:
        self.start = time.process_time()
        tracemalloc.start()

    def __exit__(self, *error: object) -> None:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if error[0] is None:
            assert peak < 16 << 20
            assert time.process_time() - self.start < 60


@pytest.mark.parametrize("seed", range(2))
def test_mutated_safetensors_files_open_or_are_refused(tmp_path: Path, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((6, 32)).astype(np.float32)
    tensors = {
        "a": values,
        "b": values.astype(ml_dtypes.bfloat16),
        "c": np.arange(4),
        "d": values[0].astype(np.float16),
    }
    header = safetensors_header(tensors, {"format": "pt"})
    good = safetensors_bytes(header, b"".join(array.tobytes() for array in tensors.values()))
    folder = write_hub_folder(tmp_path, {}, {}, files={"tokenizer.json": b"{}"})
    file = folder / "model.safetensors"
    refused = 0
    with _Bounds():
        for content in _mutations(good, 8 + len(json.dumps(header)), seed):
            file.write_bytes(content)
            checkpoint = _opened(lambda: open_checkpoint(folder))
            refused += checkpoint is None
            if checkpoint is not None:  # what is accepted here, the format's own library accepts
                with safe_open(file, "np") as library:
                    assert set(library.keys()) == set(checkpoint.tensors)
    assert CASES / 2 < refused < CASES


@pytest.mark.parametrize("seed", range(2))
def test_mutated_gguf_files_open_or_are_refused(tmp_path: Path, seed: int) -> None:
    good, header = mixed_gguf(seed)
    file = tmp_path / "a.gguf"
    refused = 0
    with _Bounds():
        for content in _mutations(good, header, seed):
            file.write_bytes(content)
            refused += _opened(lambda: open_gguf(file)) is None
    assert CASES / 2 < refused < CASES


@pytest.mark.parametrize("seed", range(2))
def test_mutated_indices_open_or_are_refused(tmp_path: Path, seed: int) -> None:
    folder = write_hub_folder(tmp_path, {}, {"a": np.zeros(8), "b": np.zeros(8)}, shards=2)
    index = folder / "model.safetensors.index.json"
    good = index.read_bytes()
    refused = 0
    with _Bounds():
        for content in _mutations(good, len(good), seed):
            index.write_bytes(content)
            refused += _opened(lambda: open_checkpoint(folder)) is None
    assert CASES / 2 < refused < CASES
