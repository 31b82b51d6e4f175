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
class LazyTensor:
    """A tensor that is still in its file; `rows` and `raw` fetch from a start to a stop within the first axis."""

    name: str
    dtype: str  # as stored: "float32", "bfloat16", "int64" ..., "mxfp4", or the GGUF type's name, as "Q4_1"
    shape: tuple[int, ...]  # row-major: a linear weight is [out_features, in_features]
    rows: Callable[[int, int], Array]
    raw: Callable[[int, int], Bytes] | None = None
    nbytes: int = 0  # in the file

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
