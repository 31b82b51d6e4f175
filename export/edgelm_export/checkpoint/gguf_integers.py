"""The integers of GGUF's block types, by the gguf package's own dequantization of blocks whose fields were overwritten.

With the scales of a block set to one, and what is added to it to zero, its values are its integers; with the integers set to one they
are its scales; with the integers set to zero they are its offsets. So no bit of a type is unpacked here, only its fields are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgelm_export.checkpoint.base import Array, Bytes, Codes, Grid, LazyTensor

Field = tuple[int, bytes]  # where in a block, and what is written there
Dequantize = Callable[[Bytes, Array], None]

_ONE = b"\x00\x3c"  # float16


@dataclass(frozen=True)
class _Type:
    """A block type; the layouts are those of ggml's ggml-common.h.

    Attributes:
        bits: the integers' width once `zero` was added to them.
        group_size: values that share a scale.
        scale_dtype: float16 where a block stores the scales as they are; products of two stored numbers need float32.
        one_scale: makes all scales one and all offsets zero.
        one_code: makes all integers one.
        no_code: makes all integers zero.
        no_offset: makes all offsets zero; None where there are none.
    """

    bits: int
    group_size: int
    zero: int
    scale_dtype: str
    one_scale: Sequence[Field]
    one_code: Sequence[Field]
    no_code: Sequence[Field] = ()
    no_offset: Sequence[Field] | None = None


_K_SCALES = b"\1\1\1\1\0\0\0\0\1\1\1\1"  # Q4_K and Q5_K: eight 6-bit scales of one, eight 6-bit minima of zero
TYPES: Mapping[str, _Type] = {
    "Q4_0": _Type(4, 32, 8, "float16", [(0, _ONE)], [(2, b"\x99" * 16)]),
    "Q4_1": _Type(4, 32, 0, "float16", [(0, _ONE + bytes(2))], [(4, b"\x11" * 16)], [(4, bytes(16))], [(2, bytes(2))]),
    "Q5_0": _Type(5, 32, 16, "float16", [(0, _ONE)], [(2, b"\xff" * 4 + b"\x11" * 16)]),
    "Q5_1": _Type(
        5, 32, 0, "float16", [(0, _ONE + bytes(2))], [(4, bytes(4) + b"\x11" * 16)], [(4, bytes(20))], [(2, bytes(2))]
    ),
    "Q8_0": _Type(8, 32, 128, "float16", [(0, _ONE)], [(2, b"\1" * 32)]),
    "Q2_K": _Type(
        2,
        16,
        0,
        "float32",
        [(0, b"\1" * 16), (80, _ONE + bytes(2))],
        [(16, b"\x55" * 64)],
        [(16, bytes(64))],
        [(82, bytes(2))],
    ),
    "Q3_K": _Type(3, 16, 4, "float32", [(96, b"\x11" * 8 + b"\xaa" * 4 + _ONE)], [(0, b"\xff" * 32 + b"\x55" * 64)]),
    "Q4_K": _Type(
        4,
        32,
        0,
        "float32",
        [(0, _ONE + bytes(2) + _K_SCALES)],
        [(16, b"\x11" * 128)],
        [(16, bytes(128))],
        [(2, bytes(2))],
    ),
    "Q5_K": _Type(
        5,
        32,
        0,
        "float32",
        [(0, _ONE + bytes(2) + _K_SCALES)],
        [(16, bytes(32) + b"\x11" * 128)],
        [(16, bytes(160))],
        [(2, bytes(2))],
    ),
    "Q6_K": _Type(6, 16, 32, "float32", [(192, b"\1" * 16 + _ONE)], [(0, b"\x11" * 128 + b"\xaa" * 64)]),
    # Their integers are a table's values, -127 to 113, of which number 8 is one.
    "IQ4_NL": _Type(8, 32, 128, "float16", [(0, _ONE)], [(2, b"\x88" * 16)]),
    "IQ4_XS": _Type(8, 32, 128, "float32", [(0, _ONE + b"\xaa\xaa" + b"\x11" * 4)], [(8, b"\x88" * 128)]),
}


def gguf_grid(tensor: LazyTensor, unit_bytes: int, unit_values: int, dequantize: Dequantize) -> Grid | None:
    """How a matrix of a GGUF type is stored as integers; None where it is not.

    Args:
        unit_bytes: of a block.
        unit_values: in a block.
        dequantize: blocks as stored, and the values to fill.
    """
    kind = TYPES.get(tensor.dtype)
    if kind is None or len(tensor.shape) != 2:
        return None

    def values(blocks: Bytes) -> Array:
        result = np.empty(len(blocks) * unit_values, np.float32)
        with np.errstate(all="ignore"):  # whoever uses the weights judges NaN and infinity
            dequantize(blocks.reshape(-1), result)
        return result

    read = partial(_read, kind, tensor, unit_bytes, values)
    offsets = kind.no_offset is not None
    return Grid(kind.bits, kind.group_size, kind.zero, offsets, kind.scale_dtype, read)


def _read(
    kind: _Type, tensor: LazyTensor, unit_bytes: int, values: Callable[[Bytes], Array], start: int, stop: int
) -> Codes:
    blocks = tensor.read_raw(start, stop).reshape(-1, unit_bytes)
    rows = stop - start

    def of_groups(*fields: Field) -> Array:
        return values(_overwritten(blocks, fields)).reshape(rows, -1, kind.group_size)[:, :, 0].copy()

    integers = values(_overwritten(blocks, kind.one_scale)).reshape(rows, math.prod(tensor.shape[1:]))
    codes = (integers + np.float32(kind.zero)).astype(np.uint8)
    scales = of_groups(*kind.one_code, *(kind.no_offset or ()))
    offsets = None if kind.no_offset is None else of_groups(*kind.no_code)
    return Codes(codes, scales, kind.zero, offsets)


def _overwritten(blocks: Bytes, fields: Sequence[Field]) -> Bytes:
    result = blocks.copy()
    for at, data in fields:
        result[:, at : at + len(data)] = np.frombuffer(data, np.uint8)
    return result
