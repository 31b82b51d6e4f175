"""PyTorch's weight files, read by PyTorch itself where it is installed, and only as `weights_only=True` reads them: tensors, no code.

The one file besides optimum.py that imports a framework, and it does so when such a file is to be read. Files are mapped, not loaded.
"""

from __future__ import annotations

import importlib.util
import pickle  # for the name of its error; nothing is read with it
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint.base import Array, Bytes, LazyTensor
from edgelm_export.checkpoint.files import CONVERT_PICKLE, corrupt, exists, file_size, is_plain_name, shown

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")


def can_read(folder: Path) -> bool:
    """Whether the folder holds weights as PyTorch saves them, and PyTorch is installed."""
    return (exists(folder / SINGLE) or exists(folder / INDEX)) and importlib.util.find_spec("torch") is not None


def read_pytorch(file: Path) -> dict[str, LazyTensor]:
    """The tensors of a file, still in it.

    Raises:
        CheckpointError: it holds anything but tensors, or has the form that PyTorch had before 1.6, which cannot be mapped.
        CorruptFile: it cannot be what it says.
    """
    import torch

    file_size(file)
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: holds more than tensors, which only code could make something of, so it is not read; {CONVERT_PICKLE}"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{file}: cannot be mapped ({str(error).splitlines()[0][:200]}): it is damaged, or was saved before PyTorch 1.6; "
            f"{CONVERT_PICKLE}"
        ) from error
    if not isinstance(found, dict):
        raise corrupt(file, f"holds a {type(found).__name__} where a dictionary of tensors was expected")
    return {name: _tensor(file, name, value) for name, value in found.items()}


def _tensor(file: Path, name: object, value: Any) -> LazyTensor:
    import torch

    if not isinstance(name, str) or not is_plain_name(name):
        raise corrupt(file, f"tensor {shown(str(name))}: is not a usable name")
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        raise CheckpointError(f"{file}: {shown(name)} is no dense tensor, so these are not a model's weights alone")
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in _FLOATS + _INTEGERS:
        raise CheckpointError(f"{file}: tensor {shown(name)} is {dtype}, which edgelm does not read")
    value = value.detach()
    flat = value if value.ndim else value.reshape(1)
    shape = tuple(value.shape)
    return LazyTensor(
        name, dtype, shape, partial(_rows, flat), partial(_raw, flat), value.numel() * value.element_size()
    )


def _rows(value: Any, start: int, stop: int) -> Array:
    import torch

    return np.array(value[start:stop].to(torch.float32).numpy())  # a copy, also of what was float32 before


def _raw(value: Any, start: int, stop: int) -> Bytes:
    import torch

    rows = value[start:stop].contiguous()
    return np.array(rows.view(torch.uint8).numpy()).reshape(stop - start, -1)
