"""A checkpoint's own integers in the blocks of MatMulNBits: which format holds them, and the move from one to the other.

Codes of 2 to 8 bits go into the next width that kernels have (2, 4 or 8), so that the middle of theirs is the middle of ours. Then a
symmetric grid needs no zero points, and what is added to each block (GGUF's minima, MLX's biases) is a small table of floats:

    w = (code - zero) * scale                         as MatMulNBits computes it
    w = (code - middle) * scale + offset              MatMulNBits, plus the sums of the input's blocks times the offsets

Groups that no kernel has the block for (a whole row, 512 columns) become several blocks with the same scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgelm_export.checkpoint.base import Codes, Grid
from edgelm_export.quantize.compensate import Compensation
from edgelm_export.quantize.formats import BLOCK_SIZES, Format, Quantized, find_format
from edgelm_export.quantize.packing import pack, pack_padded
from edgelm_export.weights import Weight

_WIDTHS = (2, 4, 8)
# ONNX Runtime 1.32, one thread, AVX-512, 1536 x 1536, one row: two bits take 45 us in blocks of 128, 79 in blocks of 64, 150 of 32 and
# 60,000 of 16; four bits 44, 58, 63 and 90.
_LEAST_2_BIT_BLOCK = 64
_FLOATS = ("float16", "bfloat16")  # formats that go by the name of their dtype
_REST = "int8-b128"


@dataclass(frozen=True, kw_only=True)
class Kept(Format):
    """A block format that takes the codes of a grid as they are.

    Args:
        group_size: columns that share a scale in the checkpoint, a multiple of block_size but for a whole row.
        shift: what is added to a code.
        ordered: the input's columns must be put in the codes' order first.
    """

    group_size: int
    shift: int
    ordered: bool

    @property
    def compensates(self) -> bool:
        """Never: the codes are the checkpoint's."""
        return False

    def take(self, rows: Codes) -> Quantized:
        """Rows of the grid to what is stored; k of the last block's columns may be padding."""
        n, k = rows.codes.shape
        blocks = -(-k // self.block_size)
        middle = 1 << (self.bits - 1)
        group = np.arange(blocks) * self.block_size // self.group_size  # of each block
        codes = np.full((n, blocks * self.block_size), middle, np.uint8)
        codes[:, :k] = rows.codes + np.uint8(self.shift)
        scales = rows.scales[:, group]
        offsets = zeros = None
        if rows.offsets is not None:
            added = rows.offsets[:, group] + np.float32(middle - self.shift) * scales
            offsets = added.astype(self.offset_dtype)
        if not self.symmetric:
            zeros = pack_padded(np.broadcast_to(rows.zeros, rows.scales.shape)[:, group].astype(np.uint8), self.bits)
        packed = pack(codes.reshape(n, blocks, -1), self.bits)
        return Quantized(packed, scales.astype(self.scale_dtype), zeros, offsets)


def stored_format(form: Format, weight: Weight, *, gathered: bool = False) -> Format:
    """What a weight is stored in: the format asked for, or the one that holds what the checkpoint has, if that is to be kept.

    `keep` never changes a value: what no integer kernel holds stays the float it is. `keep-fast` rounds what costs time or
    bytes: such floats to eight bits, products of two scales (K-quants) and offsets to float16.
    """
    if form.keeps is None:
        return form
    exactly, k = form.keeps == "exactly", weight.shape[-1]
    grid = weight.grid
    # A table's rows have no input whose columns could be put in order.
    kept = kept_format(grid, k, exactly=exactly) if grid is not None and not (gathered and grid.order) else None
    if kept is not None:
        return kept
    if exactly:
        return find_format(weight.tensor.dtype if weight.as_stored and weight.tensor.dtype in _FLOATS else "float32")
    return find_format(_REST).fit(k, gathered=gathered)


def experts_format(form: Format) -> Format:
    """The same for all experts of a layer, whose kernel knows one format for all and no offsets: their integers are not kept."""
    if form.keeps is None:
        return form
    return find_format("float32" if form.keeps == "exactly" else "int8-b32")


def quantized(weight: Weight, form: Format, compensation: Compensation | None = None) -> Iterator[Quantized]:
    """The rows of a weight in a block format, piece by piece; `compensation` as `Format.quantize` takes it."""
    if isinstance(form, Kept):
        return map(form.take, weight.codes())
    if compensation is None:
        return form.quantize_pieces(weight.promised(form.flaw, form.rows_at_once(weight.shape[1])))
    return (form.quantize(rows, compensation) for rows in weight.chunks(form.flaw))


def kept_format(grid: Grid, k: int, *, exactly: bool = True) -> Kept | None:
    """The format that holds the codes of rows of k columns; None where no kernel has such blocks."""
    whole = grid.group_size >= k
    block_size = max((size for size in BLOCK_SIZES if (k if whole else grid.group_size) % size == 0), default=0)
    if whole and not block_size and not grid.offsets:
        block_size = 32  # the last one is padded
    if not block_size or (grid.offsets and k % block_size):
        return None
    bits = next(width for width in _WIDTHS if width >= grid.bits and (width > 2 or block_size >= _LEAST_2_BIT_BLOCK))
    middle = 1 << (grid.bits - 1) if grid.offsets else grid.zero
    long = "float32" if exactly else "float16"
    return Kept(
        name=f"int{bits}-b{block_size}",
        bits=bits,
        block_size=block_size,
        symmetric=middle is not None,
        scale_dtype=long if grid.scale_dtype == "float32" else grid.scale_dtype,
        offset_dtype=long if grid.offsets else None,
        group_size=grid.group_size,
        shift=0 if middle is None else (1 << (bits - 1)) - middle,
        ordered=grid.order is not None,
    )
