"""Codes of a few bits in bytes, as ONNX Runtime's kernels read them: the first in the lowest bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def pack(codes: Bytes, bits: int) -> Bytes:
    """Codes below 2^bits along the last axis, 8 / bits to a byte."""
    packed = codes[..., :: 8 // bits]
    for i in range(1, 8 // bits):
        packed = packed | (codes[..., i :: 8 // bits] << np.uint8(i * bits))
    return packed


def pack_padded(codes: Bytes, bits: int) -> Bytes:
    """The same for rows [n, count] of any length; the last byte is filled up with zeros."""
    missing = -codes.shape[-1] % (8 // bits)
    return pack(np.pad(codes, ((0, 0), (0, missing))) if missing else codes, bits)


def unpack(packed: Bytes, bits: int) -> Bytes:
    """The codes again, along the last axis; a last byte that was filled up gives its zeros too."""
    parts = [packed >> np.uint8(shift) & np.uint8((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)
