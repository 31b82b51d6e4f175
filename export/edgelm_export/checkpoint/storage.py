"""A tensor's place in a file in, its rows as float32 out; read in pieces, so that only the result grows with them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from edgelm.errors import CorruptFile, UnsupportedConfig
from edgelm_export.checkpoint.base import Array, Bytes, LazyTensor
from edgelm_export.checkpoint.files import opened, shown

Decode = Callable[[Bytes, Array], None]  # whole units as stored, float32 values to fill

_PIECE_BYTES = 128 << 10  # decoded at once: stays in the processor's cache, and bounds the temporaries
# Types that are ordinary numbers, as safetensors and GGUF both name them, in NumPy's spelling.
PLAIN_TYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}

EIGHT_BIT_FLOATS: Mapping[str, str] = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}

_PLAIN_DTYPES: Mapping[str, Any] = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": ml_dtypes.bfloat16,
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint64": "<u8",
    "uint32": "<u4",
    "uint16": "<u2",
    "uint8": "u1",
    "bool": "u1",
}


@dataclass(frozen=True)
class Storage:
    """Units of `unit_bytes` bytes with `unit_values` values each, from `offset` on, which lie within the file."""

    file: Path
    offset: int
    unit_bytes: int
    unit_values: int
    decode: Decode | None  # None: the tensor is listed, but its values cannot be read

    def tensor(self, name: str, dtype: str, shape: tuple[int, ...]) -> LazyTensor:
        """The lazy tensor over these bytes."""
        where, width = f"{self.file}: tensor {shown(name)}", math.prod(shape[1:])
        nbytes = math.prod(shape) // self.unit_values * self.unit_bytes
        rows = partial(self._rows, self.decode, where, width) if self.decode else partial(_refuse, where, dtype)
        return LazyTensor(name, dtype, shape, rows, partial(self._raw, where, width), nbytes)

    def _rows(self, decode: Decode, where: str, width: int, start: int, stop: int) -> Array:
        size, low, high = self.unit_values, start * width, stop * width  # the last two in values
        first, last = low // size, -(-high // size)  # in units
        values = np.empty((last - first) * size, np.float32)
        step = max(1, _PIECE_BYTES // self.unit_bytes)
        buffer = np.empty(min(step, last - first) * self.unit_bytes, np.uint8)
        with opened(self.file) as file, np.errstate(all="ignore"):  # whoever uses the weights judges NaN and infinity
            file.seek(self.offset + first * self.unit_bytes)
            for at in range(0, last - first, step):
                count = min(step, last - first - at)
                piece = buffer[: count * self.unit_bytes]
                _fill(file, piece, where)
                decode(piece, values[at * size : (at + count) * size])
        return values[low - first * size : high - first * size]

    def _raw(self, where: str, width: int, start: int, stop: int) -> Bytes:
        if width % self.unit_values:
            raise ValueError(f"{where}: a row of {width} values is no whole number of blocks of {self.unit_values}")
        result = np.empty((stop - start, width // self.unit_values * self.unit_bytes), np.uint8)
        with opened(self.file) as file:
            file.seek(self.offset + start * result.shape[1])
            _fill(file, result.reshape(-1), where)
        return result


def plain_storage(file: Path, offset: int, dtype: str) -> Storage:
    """The storage of a tensor whose values are ordinary numbers, one after the other."""
    stored = np.dtype(_PLAIN_DTYPES[dtype])

    def decode(piece: Bytes, values: Array) -> None:
        values[:] = piece.view(stored)

    def decode_bfloat16(piece: Bytes, values: Array) -> None:
        bits = values.view(np.uint32)
        bits[:] = piece.view("<u2")
        bits <<= 16  # a tenth of the time of the cast: a bfloat16 is the upper half of a float32

    if dtype == "bfloat16":
        decode = decode_bfloat16
    return Storage(file, offset, stored.itemsize, 1, decode)


def byte_storage(file: Path, offset: int, dtype: str) -> Storage:
    """The storage of a tensor of 8-bit floats."""
    table = values_of_bytes(dtype)

    def decode(piece: Bytes, values: Array) -> None:
        np.take(table, piece, out=values, mode="clip")  # five times as fast as the cast; no byte is out of the table

    return Storage(file, offset, 1, 1, decode)


def values_of_bytes(dtype: str) -> Array:
    """What each of the 256 codes of an 8-bit float stands for, by its name in ml_dtypes."""
    return np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, dtype)).astype(np.float32)


def _refuse(where: str, dtype: str, start: int, stop: int) -> Array:
    raise UnsupportedConfig(
        f"{where} is stored as {dtype}, which cannot be converted; take a float16 or bfloat16 checkpoint"
    )


def _fill(file: io.FileIO, buffer: Bytes, where: str) -> None:
    view, done = buffer.data, 0
    while done < len(view):  # one call reads at most 2 GiB
        count = file.readinto(view[done:])
        if not count:
            raise CorruptFile(f"{where}: the file ends early, so it changed since it was opened; start again")
        done += count
