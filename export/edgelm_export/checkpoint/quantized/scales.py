"""Weights that are stored as codes, with a scale for each block of rows and columns: value = code x scale.

The weight is [rows, columns], its scales [ceil(rows / 128), ceil(columns / 128)]:
+--------+--------+--+
| s[0,0] | s[0,1] |  |      the blocks at the right and lower edges may be smaller;
+--------+--------+--+      further axes (experts) stand before these two in both
| s[1,0] | s[1,1] |  |
+--------+--------+--+
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgelm_export.checkpoint.base import Array, LazyTensor, by_group
from edgelm_export.checkpoint.files import shown
from edgelm_export.checkpoint.quantized.tensors import StoredTensors

_SCALE_TYPES = ("float32", "bfloat16", "float16", "float8_e8m0fnu")
_EIGHT_BIT_FLOATS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


@dataclass(frozen=True)
class Block:
    """How many rows and columns share a scale; None: all of them."""

    rows: int | None
    columns: int | None

    def __str__(self) -> str:
        if self.rows is None and self.columns is None:
            return "one scale a tensor"
        return "one scale a row" if self == BY_ROW else f"one scale a {self.rows} x {self.columns} block"

    def within(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of a block, none larger than the weight, so that no size is taken from a config."""
        rows, columns = max(1, shape[-2]), max(1, shape[-1])
        return min(self.rows or rows, rows), min(self.columns or columns, columns)

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the scales of a weight have."""
        rows, columns = self.within(shape)
        return (*shape[:-2], -(-shape[-2] // rows), -(-shape[-1] // columns))


BY_TENSOR, BY_ROW = Block(None, None), Block(1, None)


def read_scaled(tensors: StoredTensors, dtype: str, blocks: Sequence[Block], suffixes: Sequence[str]) -> None:
    """Puts every weight of `dtype` and its scale together; whatever does not fit is noted.

    Args:
        tensors: the checkpoint's.
        dtype: of the codes.
        blocks: those that the settings allow; the shape of a scale says which of them it is.
        suffixes: what the name of a scale may add to the weight's, the usual one first.
    """
    paired: set[str] = set()
    for name, codes in tensors.stored.items():
        if codes.dtype not in _EIGHT_BIT_FLOATS:
            continue
        scales = [tensors.stored[name + suffix] for suffix in suffixes if name + suffix in tensors.stored]
        paired |= {scale.name for scale in scales}
        block = _block(codes, scales, blocks)
        if codes.dtype != dtype:
            tensors.problem(f"{shown(name)} is {codes.dtype}, by the config it is {dtype}")
        elif len(scales) != 1:
            found = "lacks its scale" if not scales else "has several scales"
            tensors.problem(f"{shown(name)} {found} ({' or '.join(shown(name + suffix) for suffix in suffixes)})")
        elif len(codes.shape) < 2 or 0 in codes.shape:
            tensors.problem(f"{shown(name)} has the shape {list(codes.shape)}, expected rows and columns")
        elif scales[0].dtype not in _SCALE_TYPES:
            tensors.problem(f"{shown(scales[0].name)} is {scales[0].dtype}, expected one of {', '.join(_SCALE_TYPES)}")
        elif block is None:
            grids = " or ".join(str(list(block.grid(codes.shape))) for block in blocks)
            tensors.problem(
                f"{shown(scales[0].name)} has the shape {list(scales[0].shape)}, expected {grids} for {list(codes.shape)}"
            )
        else:
            tensors.replace((codes, scales[0]), scaled(codes, scales[0], block))
    _find_stray_scales(tensors, paired, suffixes)


def scaled(codes: LazyTensor, scale: LazyTensor, block: Block) -> LazyTensor:
    """The weight of these codes and scales, under the codes' name."""
    rows = partial(_rows, codes, scale, block)
    return LazyTensor(codes.name, codes.dtype, codes.shape, rows, nbytes=codes.nbytes + scale.nbytes)


def _rows(codes: LazyTensor, scale: LazyTensor, block: Block, start: int, stop: int) -> Array:
    shape, (rows, columns) = codes.shape, block.within(codes.shape)
    if len(shape) > 2:  # the first axis is one of experts: their scales are whole
        scales = scale.read(start, stop).reshape(-1, *block.grid(shape)[1:])
        of_row = np.arange(shape[-2]) // rows
    else:
        first = start // rows
        scales = scale.read(first, -(-stop // rows)).reshape(-1, block.grid(shape)[1])
        of_row = np.arange(start, stop) // rows - first
    values = codes.read(start, stop)
    with np.errstate(all="ignore"):  # whoever uses the weights judges NaN and infinity
        by_group(np.multiply, values, np.take(scales, of_row, axis=-2), columns)
    return values


def _block(codes: LazyTensor, scales: Sequence[LazyTensor], blocks: Sequence[Block]) -> Block | None:
    """The block that the first scale's shape stands for; axes of one at its end may be left out."""
    if not scales or len(codes.shape) < 2:
        return None
    for block in blocks:
        grid = block.grid(codes.shape)
        spellings = {grid}
        while grid and grid[-1] == 1:
            grid = grid[:-1]
            spellings.add(grid)
        if scales[0].shape in spellings:
            return block
    return None


def _find_stray_scales(tensors: StoredTensors, paired: set[str], suffixes: Sequence[str]) -> None:
    """Notes scales whose weight is not there or not quantized."""
    for suffix in suffixes:
        # Other things than weights may be called a scale: `logit_scale`.
        for _, scale in tensors.ending(suffix if suffix.endswith("_inv") else f".weight{suffix}"):
            if scale.name not in paired:
                weight = tensors.stored.get(scale.name.removesuffix(suffix))
                found = "its weight is not there" if weight is None else f"{shown(weight.name)} is {weight.dtype}"
                tensors.problem(f"{shown(scale.name)} scales nothing: {found}")
