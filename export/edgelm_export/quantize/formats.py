"""Weight formats: float32 rows [n, k] in, what a package stores out, and back. A row's result depends on that row alone.

Bits are laid out as ONNX Runtime's MatMulNBits and GatherBlockQuantized read them. Per row:

    packed       | block 0            | block 1 | ...      4 bits: byte = code 2i | code 2i+1 << 4;  8 bits: byte = code
    scales       | block 0 | block 1 | ...                 float16; a weight is (code - zero point) * scale
    zero_points  | block 0, block 1 | ...                  packed like codes; absent means 2^(bits-1)

With block sums the row is longer by one column for each block: the input is extended by the sum of each of its blocks, and these
columns carry what a whole zero point cannot say. So affine blocks (weight = code * scale + offset) run on the integer kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edgelm.errors import InvalidOption
from edgelm_export.quantize import rounding
from edgelm_export.quantize.compensate import Compensation, Grid
from edgelm_export.quantize.packing import Bytes, pack, pack_padded, unpack
from edgelm_export.transforms import Promise, cut
from edgelm_export.workers import in_order

Rows = NDArray[np.float32]
Scales = NDArray[Any]  # of the format's scale_dtype

BLOCK_SIZES = (16, 32, 64, 128, 256)
# Rows are rounded so many values at a time. With fewer, threads hand the interpreter's lock to each other more often than is worth the
# second-level cache; these are more than 4,096 blocks of 128, below which NumPy (2.4) copies one number a block before it multiplies.
_CHUNK_VALUES = 4224 * 128
_LARGEST_SCALE = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Quantized:
    """Rows in a block format: packed [n, blocks, block_size * bits / 8], scales [n, blocks], zero points [n, ceil(blocks * bits / 8)].

    `offsets` [n, blocks] are added to the weights of each block.
    """

    packed: Bytes
    scales: Scales
    zero_points: Bytes | None
    offsets: NDArray[Any] | None = None


@dataclass(frozen=True)
class Format:
    """How a weight is stored: `bits` 32 and 16 are floats, fewer are blocks of integers with a float16 scale each.

    Args:
        block_size: values that share a scale; 0 means the whole row.
        symmetric: no zero points are stored.
        block_sums: the input must be extended by its block sums, [..., k] -> [..., k + k / block_size].
        input_scale: the input is rounded to 8 bits as well, with one scale a "call" or one a "row" of it; otherwise in blocks,
            which is the kernel's affair.
        float_input: the input is not rounded at all, at the kernel's accuracy level 0: four times the time of a decode step.
        dtype: of a float format.
        offset_dtype: of what is added to each block; None where nothing is. The input's block sums are multiplied by it.
        keeps: no format of its own, but that of the numbers in the checkpoint (kept.py): "exactly", or "nearly".
    """

    name: str
    bits: int
    block_size: int = 0
    symmetric: bool = True
    block_sums: bool = False
    input_scale: Literal["call", "row"] | None = None
    float_input: bool = False
    dtype: str = "float32"
    scale_dtype: str = "float16"
    offset_dtype: str | None = None
    keeps: Literal["exactly", "nearly"] | None = None

    @property
    def compensates(self) -> bool:
        """Whether its codes may be chosen for the error of a product; whole rows meet a smoothed input, and are fine enough."""
        return self.block_size > 0

    def fit(self, k: int, *, gathered: bool = False) -> Format:
        """The format to use for rows of k columns: the largest block that divides k, but not above this one's.

        Where none divides k the last block is padded. Block sums need whole blocks, and a table whose rows are looked up
        (`gathered`) has no input to extend; both fall back to whole zero points.
        """
        if self.keeps or self.bits >= 16 or self.input_scale == "row" or (self.input_scale == "call" and not gathered):
            return self
        if self.input_scale == "call":
            return find_format(_GATHERED).fit(k, gathered=True)
        dividing = [size for size in BLOCK_SIZES if size <= self.block_size and k % size == 0]
        size = max(dividing) if dividing else min(self.block_size, 32)
        kind = _kind(self.symmetric, self.block_sums and bool(dividing) and not gathered)
        return _named(self.bits, size, kind + (_FLOAT_INPUT if self.float_input else ""))

    def blocks(self, k: int) -> int:
        """Stored blocks of a row of k columns, those that carry the block sums' columns included."""
        size = self.block_size or k
        blocks = -(-k // size)
        return blocks + -(-blocks // size) if self.block_sums else blocks

    def columns(self, k: int) -> int:
        """Columns of the kernel's input for weight rows of k columns: its attribute K."""
        return k + k // self.block_size if self.block_sums else k

    def nbytes(self, n: int, k: int) -> int:
        """What n rows of k columns take in the package."""
        if self.bits >= 16:
            return n * k * self.bits // 8
        blocks = self.blocks(k)
        zero_points = 0 if self.symmetric else -(-blocks * self.bits // 8)
        floats = np.dtype(self.scale_dtype).itemsize + np.dtype(self.offset_dtype or "V0").itemsize
        return n * (blocks * ((self.block_size or k) * self.bits // 8 + floats) + zero_points)

    def flaw(self, rows: Rows) -> str | None:
        """Why these rows cannot be stored in this format, or None: NaN, infinity, values beyond what float16 (scales) can hold."""
        low, high = (float(rows.min()), float(rows.max())) if rows.size else (0.0, 0.0)
        if not np.isfinite(low + high):
            return "holds NaN or infinity"
        limit = (
            float(ml_dtypes.finfo(self.dtype).max) if self.bits >= 16 else _LARGEST_SCALE * ((1 << self.bits - 1) - 1)
        )
        if max(-low, high) > limit:
            return f"holds values up to {max(-low, high):.3g}, and {self.name} reaches {limit:.3g} only"
        return None

    def quantize(self, rows: Rows, compensation: Compensation | None = None) -> Quantized:
        """Rows [n, k], free of flaws and fitted (`fit`), to what is stored; k of the last block's columns may be padding.

        With `compensation`, codes are chosen for the error of the product, not of the weights.
        """
        plain = self._rounded(rows, None)
        return plain if compensation is None else self._compensated(plain, rows, compensation)

    def quantize_pieces(self, pieces: Iterable[Promise], importance: Rows | None = None) -> Iterator[Quantized]:
        """Rows that come piece by piece, `rows_at_once` at a time: read and rounded on all processors.

        They get the grids nearest to them, the squares of a column counting by its `importance` [k].
        """
        return in_order(lambda read: self._piece(read(), importance), pieces)

    def rows_at_once(self, k: int) -> int:
        """How many rows of k columns are best rounded together."""
        return max(1, _CHUNK_VALUES // max(1, k))

    def dequantize(self, stored: Quantized, k: int) -> Rows:
        """The rows [n, k] that the kernels compute with."""
        return self._grid(stored, k).values(self._codes(stored, k).astype(np.float32))

    def _compensated(self, plain: Quantized, rows: Rows, compensation: Compensation) -> Quantized:
        """What makes the product's error small, on grids for what no other column can make up for; the plain rows that are better."""
        k = rows.shape[1]
        found = self._rounded(rows, compensation.importance)
        grid = self._grid(found, k)
        blocks = grid.scale.shape[1]
        codes = unpack(found.packed, self.bits).copy()
        chosen = codes[:, :blocks].reshape(len(rows), -1)
        chosen[:, :k] = compensation.codes(rows, grid)
        codes[:, :blocks] = chosen.reshape(len(rows), blocks, -1)
        found = replace(found, packed=pack(codes, self.bits))
        worse = np.greater(*(compensation.error(self.dequantize(stored, k) - rows) for stored in (found, plain)))
        pairs = ((found.packed, plain.packed), (found.scales, plain.scales), (found.zero_points, plain.zero_points))
        for ours, theirs in pairs:
            if ours is not None and theirs is not None:
                ours[worse] = theirs[worse]
        return found

    def _codes(self, stored: Quantized, k: int) -> Bytes:
        return unpack(stored.packed, self.bits).reshape(len(stored.packed), -1)[:, :k]

    def _grid(self, stored: Quantized, k: int) -> Grid:
        size = self.block_size or k
        blocks = -(-k // size)
        scale = stored.scales.astype(np.float32)
        zero = np.full_like(scale, 1 << (self.bits - 1))
        if stored.zero_points is not None:
            zero = unpack(stored.zero_points, self.bits)[:, : scale.shape[1]].astype(np.float32)
        offset = np.zeros_like(scale[:, :blocks])
        if stored.offsets is not None:
            offset = stored.offsets.astype(np.float32)
        if self.block_sums:
            sums = Grid(scale[:, blocks:], zero[:, blocks:], np.zeros_like(scale[:, blocks:]), size, 0)
            behind = unpack(stored.packed, self.bits)[:, blocks:].reshape(len(scale), -1)
            offset = sums.values(behind.astype(np.float32))[:, :blocks]
        return Grid(scale[:, :blocks], zero[:, :blocks], offset, size, (1 << self.bits) - 1)

    def _rounded(self, rows: Rows, importance: Rows | None) -> Quantized:
        parts = list(self.quantize_pieces(cut(rows, self.rows_at_once(rows.shape[1])), importance))
        zero_points = [part.zero_points for part in parts if part.zero_points is not None]
        return Quantized(
            np.concatenate([part.packed for part in parts]),
            np.concatenate([part.scales for part in parts]),
            np.concatenate(zero_points) if zero_points else None,
        )

    def _piece(self, rows: Rows, importance: Rows | None) -> Quantized:
        n, size = len(rows), self.block_size or rows.shape[1]
        if self.bits == 8:
            scale, codes = rounding.nearest_bytes(_padded(rows, size).reshape(-1, size))
            return Quantized(codes.reshape(n, -1, size), _scales(scale, n), None)
        columns = _columns(rows, size)
        counts = None if importance is None else np.tile(_shares(_columns(importance[None], size)), n)
        if self.symmetric:
            found = rounding.symmetric(columns, self.bits, counts)
            return Quantized(_packed(found.codes, n, self.bits), _scales(found.scale, n), None)
        found = (rounding.affine if self.block_sums else rounding.asymmetric)(columns, self.bits, counts)
        packed, scales = _packed(found.codes, n, self.bits), _scales(found.scale, n)
        zero = found.zero.reshape(n, -1)
        whole = np.clip(np.rint(zero), 0, (1 << self.bits) - 1)
        if self.block_sums:
            offsets = rounding.symmetric(
                _columns((whole - zero) * scales.astype(np.float32), self.block_size), self.bits
            )
            packed = np.concatenate([packed, _packed(offsets.codes, n, self.bits)], axis=1)
            scales = np.concatenate([scales, _scales(offsets.scale, n)], axis=1)
            whole = np.pad(whole, ((0, 0), (0, scales.shape[1] - whole.shape[1])), constant_values=1 << (self.bits - 1))
        return Quantized(packed, scales, pack_padded(whole.astype(np.uint8), self.bits))


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        InvalidOption: there is none.
    """
    if name not in FORMATS:
        raise InvalidOption(f"weight format {name!r} is not known (known: {', '.join(FORMATS)})")
    return FORMATS[name]


def with_block_size(name: str, block_size: int) -> str:
    """The name of the same format with another block size; float formats stay as they are.

    Raises:
        InvalidOption: kernels have no such block size.
    """
    if block_size not in BLOCK_SIZES:
        raise InvalidOption(f"block size {block_size} is not one of {', '.join(map(str, BLOCK_SIZES))}")
    return re.sub(r"-b\d+", f"-b{block_size}", name)


def with_float_input(form: Format) -> Format:
    """The format of the same bits and blocks whose input is not rounded; a fractional zero point becomes a whole one."""
    return _named(form.bits, form.block_size, _kind(form.symmetric, False) + _FLOAT_INPUT)


def _named(bits: int, block_size: int, kind: str) -> Format:
    zero_points, floats = kind.removesuffix(_FLOAT_INPUT), kind.endswith(_FLOAT_INPUT)
    return Format(
        f"int{bits}-b{block_size}{kind}",
        bits,
        block_size,
        symmetric=not zero_points,
        block_sums=zero_points == "-affine",
        float_input=floats,
    )


def _kind(symmetric: bool, block_sums: bool) -> str:
    if symmetric:
        return ""
    return "-affine" if block_sums else "-asym"


# Eight bits lack it: the kernel would dequantize the whole weight in every call.
_FLOAT_INPUT = "-level0"
_FLOATS = (
    Format("float32", 32),
    Format("float16", 16, dtype="float16"),
    Format("bfloat16", 16, dtype="bfloat16"),
)
_BLOCKS = tuple(
    _named(bits, size, kind)
    for bits, kinds in ((8, ("",)), (4, ("", "-asym", "-affine", _FLOAT_INPUT, "-asym" + _FLOAT_INPUT)))
    for kind in kinds
    for size in BLOCK_SIZES
)
_WHOLE_ROWS = (
    Format("int8-dynamic", 8, input_scale="call", scale_dtype="float32"),
    Format("int8-rows", 8, input_scale="row"),
)
# A table of int8-dynamic whose rows are looked up has no input to round: it is stored in blocks.
_GATHERED = "int8-b128"
_KEPT = (Format("keep", 8, keeps="exactly"), Format("keep-fast", 8, keeps="nearly"))
FORMATS: Mapping[str, Format] = {form.name: form for form in (*_FLOATS, *_BLOCKS, *_WHOLE_ROWS, *_KEPT)}


def _columns(rows: Rows, block_size: int) -> Rows:
    """[n, k] -> [block_size, n * blocks], zeros in the padding of the last block."""
    return np.ascontiguousarray(_padded(rows, block_size).reshape(-1, block_size).T)


def _padded(rows: Rows, block_size: int) -> Rows:
    k = rows.shape[1]
    return np.pad(rows, ((0, 0), (0, -k % block_size))) if k % block_size else rows


def _shares(importance: Rows) -> Rows:
    """[block_size, blocks], 1 on average in each block; 1 for all where none counts."""
    mean = importance.mean(0)
    return np.where(mean > 0, importance / np.where(mean > 0, mean, 1), np.float32(1))


def _packed(codes: Rows, n: int, bits: int) -> Bytes:
    """[block_size, n * blocks] -> [n, blocks, block_size * bits / 8]."""
    packed = pack(codes.astype(np.uint8).T, bits)  # before it is turned: there is less of it then
    return np.ascontiguousarray(packed).reshape(n, -1, packed.shape[-1])


def _scales(scale: Rows, n: int) -> Scales:
    return scale.astype(np.float16).reshape(n, -1)
