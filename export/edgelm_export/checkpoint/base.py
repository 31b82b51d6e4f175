"""What every checkpoint reader hands on: lazy tensors by source name, and the raw metadata."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgelm_export.checkpoint.sentence_transformers import ModuleList

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Codes:
    """Rows [n, k] of a quantized tensor taken apart: a value is (code - zero) * scale + offset.

    Scales, zeros and offsets are [n, groups]: each counts for a group of neighbouring columns. One zero may serve all groups.
    """

    codes: Bytes
    scales: Array
    zeros: Bytes | int = 0
    offsets: Array | None = None

    def each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Codes:
        """The same with rows chosen or moved by `change`, which is given one part after the other."""
        zeros = self.zeros if isinstance(self.zeros, int) else change(self.zeros)
        offsets = None if self.offsets is None else change(self.offsets)
        return Codes(change(self.codes), change(self.scales), zeros, offsets)

    def values(self, group_size: int) -> Array:
        """What the codes stand for, float32 [n, k]: one product, then one sum, each rounded once."""
        values = self.codes.astype(np.float32)
        with np.errstate(all="ignore"):  # whoever uses the weights judges NaN and infinity
            if isinstance(self.zeros, int):
                values -= np.float32(self.zeros)
            else:
                by_group(np.subtract, values, self.zeros, group_size)
            by_group(np.multiply, values, self.scales, group_size)
            if self.offsets is not None:
                by_group(np.add, values, self.offsets, group_size)
        return values


def by_group(change: np.ufunc, values: Array, parts: NDArray[Any], group_size: int) -> None:
    """Changes `values` [..., k] in place by one number for each `group_size` neighbours: parts [..., ceil(k / group_size)]."""
    whole = values.shape[-1] // group_size
    body, rest = values[..., : whole * group_size], values[..., whole * group_size :]
    body = body.reshape(*values.shape[:-1], whole, group_size)  # splits the last axis, so it is a view of the values
    change(body, parts[..., :whole, None], out=body)
    change(rest, parts[..., whole:], out=rest)


@dataclass(frozen=True)
class Grid:
    """That a tensor [n, k] is stored as integers, what is known of them without reading any, and how to read them.

    Attributes:
        bits: codes are below 2^bits.
        group_size: neighbouring columns that share a scale; the last group of a row may be smaller.
        zero: of all groups; None where each has its own.
        offsets: whether something is added to each group besides.
        scale_dtype: the narrowest float that holds every scale as it is.
        read: the rows from a start to a stop.
        order: where each column of the codes belongs, int64 [k], if not in its place.
    """

    bits: int
    group_size: int
    zero: int | None
    offsets: bool
    scale_dtype: str
    read: Callable[[int, int], Codes]
    order: Callable[[], NDArray[np.int64]] | None = None

    def values(self, start: int, stop: int) -> Array:
        """The rows as float32, columns in their places."""
        values = self.read(start, stop).values(self.group_size)
        if self.order is None:
            return values
        placed = np.empty_like(values)
        placed[:, self.order()] = values
        return placed


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is still in its file; `rows` and `raw` fetch from a start to a stop within the first axis."""

    name: str
    dtype: str  # as stored: "float32", "bfloat16", "int64" ..., "mxfp4", or the GGUF type's name, as "Q4_1"
    shape: tuple[int, ...]  # row-major: a linear weight is [out_features, in_features]
    rows: Callable[[int, int], Array]
    raw: Callable[[int, int], Bytes] | None = None
    nbytes: int = 0  # in the file
    grid: Grid | None = None  # of a tensor that is stored as integers

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """The rows `start:stop` of the first axis, as a slice of the whole would give them; no other bytes are read.

        Returns:
            float32 [rows, *shape[1:]]; nothing is cached. A tensor without axes comes as one value, [].

        Raises:
            UnsupportedConfig: its dtype cannot be converted.
            CorruptFile: the file has become shorter since it was opened.
        """
        first, last = self._bounds(start, stop)
        return self.rows(first, last).reshape((last - first, *self.shape[1:]) if self.shape else ())

    def read_raw(self, start: int = 0, stop: int | None = None) -> Bytes:
        """The bytes of the same rows as they are stored.

        Returns:
            uint8 [rows, row_bytes].

        Raises:
            ValueError: a row is no whole number of blocks (a quantized tensor of one axis), or there are no such bytes.
            CorruptFile: the file has become shorter since it was opened.
        """
        if self.raw is None:
            raise ValueError(f"{self.name} has no bytes of its own")
        return self.raw(*self._bounds(start, stop))

    def _bounds(self, start: int, stop: int | None) -> tuple[int, int]:
        if not self.shape:
            return 0, 1
        first, last, _ = slice(start, stop).indices(self.shape[0])
        return first, max(first, last)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its headers were read and checked, its weights were not touched."""

    format: Literal["hf", "gguf"]
    config: dict[str, Any]  # config.json, or the GGUF metadata without the vocabulary
    generation_config: dict[str, Any]
    tensors: Mapping[str, LazyTensor]
    files: tuple[Path, ...]  # every input file, for digests
    tokenizer_files: Callable[[], Mapping[str, bytes]]  # name in the package -> content
    modules: ModuleList | None = None  # what sentence-transformers keeps beside the model
    quantization: str | None = None  # how the weights are stored that a quantization_config spoke of
    notes: tuple[str, ...] = ()  # what the user should hear about how it was read

    @property
    def parameters(self) -> int:
        """Values in its tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())
