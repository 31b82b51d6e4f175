"""Weight formats: float32 rows [n, k] in, what is stored out. Blocks of a row share a scale (MatMulNBits' layout)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import InvalidOption

Rows = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Quantized:
    """Rows in a block format: packed [n, blocks, block_size * bits / 8], scales [n, blocks], zero points [n, ceil(blocks * bits / 8)]."""

    packed: Bytes
    scales: Rows
    zero_points: Bytes | None


@dataclass(frozen=True)
class Format:
    """How a weight is stored: `bits` 32 and 16 are floats, fewer are blocks of integers with a scale each."""

    name: str
    bits: int
    block_size: int = 0
    symmetric: bool = True
    dtype: str = "float32"
    scale_dtype: str = "float16"

    def quantize(self, rows: Rows) -> Quantized:
        """Rounds rows [n, k] to nearest; the value farthest from zero of each block is the end of its range."""
        n, k = rows.shape
        blocks = -(-k // self.block_size)
        padded = np.zeros((n, blocks * self.block_size), np.float32)
        padded[:, :k] = rows
        x = padded.reshape(n, blocks, self.block_size)
        half = 1 << (self.bits - 1)
        peak = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
        scales = (peak / -half).astype(self.scale_dtype).astype(np.float32)
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
        q = np.clip(np.rint(x * inverse[..., None]) + half, 0, 2 * half - 1).astype(np.uint8)
        packed = q if self.bits == 8 else (q[..., 0::2] | (q[..., 1::2] << 4)).astype(np.uint8)
        return Quantized(packed, scales, None)


FORMATS: Mapping[str, Format] = {
    "float32": Format("float32", 32),
    "float16": Format("float16", 16, dtype="float16"),
    "int8-b64": Format("int8-b64", 8, 64),
    "int4-b32": Format("int4-b32", 4, 32),
}


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        InvalidOption: there is none.
    """
    if name not in FORMATS:
        raise InvalidOption(f"weight format {name!r} is not known (known: {', '.join(FORMATS)})")
    return FORMATS[name]
