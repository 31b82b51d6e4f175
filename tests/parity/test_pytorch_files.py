"""PyTorch's own weight files, read where it is installed: the same tensors and the same package as from safetensors, and no code run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import edgelm
from edgelm.errors import CheckpointError
from edgelm_export.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "llama"
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.float8_e4m3fn, torch.int64]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The golden checkpoint with its weights as PyTorch saves them."""
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "source"))
    weights = load_file(copy / "model.safetensors")
    torch.save(weights, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    return copy


def test_the_package_is_that_of_safetensors(folder: Path, tmp_path: Path) -> None:
    packages = [
        edgelm.export(source, tmp_path / f"out{i}", precision="int4", verify=False)
        for i, source in enumerate((GOLDEN, folder))
    ]
    first, second = ((package.path / "decoder.onnx.data").read_bytes() for package in packages)
    assert first == second
    assert "pytorch_model.bin" in packages[1].manifest.source["files"]


def test_shards_come_by_their_index(folder: Path) -> None:
    whole = {name: tensor.read() for name, tensor in open_checkpoint(folder).tensors.items()}
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for shard in range(2):
        file = f"pytorch_model-{shard + 1:05d}-of-00002.bin"
        torch.save({name: weights[name] for name in names[shard::2]}, folder / file)
        weight_map |= dict.fromkeys(names[shard::2], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    parts = open_checkpoint(folder).tensors
    assert parts.keys() == whole.keys()
    assert all(np.array_equal(parts[name].read(), whole[name]) for name in whole)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_and_bytes_of_every_dtype(folder: Path, dtype: torch.dtype) -> None:
    values = (torch.arange(24).reshape(6, 4) % 5).to(dtype)
    torch.save({"x": values, "turned": values.T, "one": values[0, 1]}, folder / "pytorch_model.bin")
    tensors = open_checkpoint(folder).tensors
    assert tensors["x"].shape == (6, 4)
    expected = values.to(torch.float32).numpy()
    assert np.array_equal(tensors["x"].read(1, 3), expected[1:3])
    assert np.array_equal(tensors["turned"].read(), expected.T)
    assert tensors["one"].read() == expected[0, 1]
    assert tensors["x"].read_raw(2, 4).tobytes() == values[2:4].contiguous().view(torch.uint8).numpy().tobytes()


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2), "y": Runs(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors, which only code could make something of"):
        open_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_files_from_before_pytorch_1_6_and_damaged_ones(folder: Path) -> None:
    file = folder / "pytorch_model.bin"
    torch.save({"x": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"cannot be mapped .* saved before PyTorch 1.6; convert it once"):
        open_checkpoint(folder)
    torch.save({"x": torch.ones(2000)}, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be mapped"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.ones(2)], "holds a list where a dictionary of tensors was expected"),
        ({"x": 3}, "'x' is no dense tensor"),
        ({"x": torch.eye(2).to_sparse()}, "'x' is no dense tensor"),
        ({"a\nb": torch.ones(2)}, "is not a usable name"),
        ({"x": torch.ones(2, dtype=torch.complex64)}, "'x' is complex64, which edgelm does not read"),
    ],
)
def test_what_is_no_checkpoint(folder: Path, content: object, match: str) -> None:
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(folder)


def test_safetensors_come_first(folder: Path) -> None:
    shutil.copy(GOLDEN / "model.safetensors", folder)
    assert folder / "pytorch_model.bin" not in open_checkpoint(folder).files
