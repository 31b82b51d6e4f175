"""Rounding of weight blocks: blocks [block_size, count] in, float16 scales, zero points and integer codes out.

A code q stands for (q - zero) * scale. Each block is a column here: sums over a block are then plain vector additions. The searches
minimise the squared error of a block; the simple rule of the format is always among the candidates, so they are never worse than it.
Where `importance` is given, of the shape of the blocks, each square counts by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float32]
Grid: TypeAlias = tuple[Array, Array]  # scale, zero: [count] each

# Blocks, what was found for them and their importance, to a better grid.
Refit: TypeAlias = "Callable[[Array, Rounded, Array | None], Grid]"

_ROUNDS = 4  # of least squares; more gain less than 0.5 % of the squared error


@dataclass(frozen=True)
class Rounded:
    """One grid and the codes on it: scale and zero [count], codes [block_size, count] as whole float32 numbers."""

    scale: Array
    zero: Array
    codes: Array
    error: Array


def symmetric(blocks: Array, bits: int, importance: Array | None = None) -> Rounded:
    """Zero point 2^(bits-1). Eight bits: round to nearest; fewer: searched scale, starting where the largest value is the lowest code."""
    half = float(1 << (bits - 1))
    zero = np.full(blocks.shape[1], half, np.float32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(0)[None], 0)[0]
    if bits == 8:  # the largest value is code 255 or 1, as in Q8_0, whose integers are thus kept
        return round_to(blocks, bits, np.abs(largest) / np.float32(half - 1))
    lowest = largest / np.float32(-half)
    starts = [(lowest * np.float32(f), zero) for f in (1.0, 0.9, 0.8, -half / (half - 1))]
    return _search(blocks, bits, starts, _refit_scale, importance)


def asymmetric(blocks: Array, bits: int, importance: Array | None = None) -> Rounded:
    """Whole zero point: simple rule is the range from lowest to highest value, with 0 in it."""
    top = np.float32((1 << bits) - 1)
    low, high = np.minimum(blocks.min(0), 0), np.maximum(blocks.max(0), 0)
    starts = [(scale, _whole(zero, top)) for scale, zero in _starts(low, high, top)]
    free = affine(blocks, bits, importance)
    starts.append((free.scale, _whole(free.zero, top)))
    return _search(blocks, bits, starts, _refit_scale, importance)


def affine(blocks: Array, bits: int, importance: Array | None = None) -> Rounded:
    """Fractional zero point.

    A block of evenly spaced values is kept as it is when it uses all 2^bits levels but at most two at the ends (Q4_1, Q4_K).
    """
    top = np.float32((1 << bits) - 1)
    low, high = np.minimum(blocks.min(0), 0), np.maximum(blocks.max(0), 0)  # so the zero point lies between codes
    best = _search(blocks, bits, _starts(low, high, top), _refit_scale_and_zero, importance)
    for empty in (1, 2):
        scale = _storable((high - low) / (top - np.float32(empty)))
        starts = [(scale, -low * _inverse(scale))]
        grid = _search(blocks, bits, starts, _refit_scale_and_zero, importance, rounds=1)
        # Only where it is the block's own grid: elsewhere a little less squared error came with 10 % more divergence.
        exact = grid.error < len(blocks) * np.square(grid.scale / np.float32(50))
        best = _better(best, replace(grid, error=np.where(exact, grid.error, np.float32(np.inf))))
    return best


def round_to(
    blocks: Array, bits: int, scale: Array, zero: Array | None = None, importance: Array | None = None
) -> Rounded:
    """Round to nearest on a given grid, its scale as float16; zero point 2^(bits-1) by default."""
    half = np.full_like(scale, 1 << (bits - 1))
    return _evaluate(blocks, bits, _storable(scale), half if zero is None else zero, importance)


def _starts(low: Array, high: Array, top: np.float32) -> Iterator[Grid]:
    """The range of each block, and nine tenths of it around the middle."""
    for part in (1.0, 0.9):
        scale = _storable((high - low) * np.float32(part) / top)
        yield scale, (top - (low + high) * _inverse(scale)) / np.float32(2)


def _search(
    blocks: Array, bits: int, starts: Iterable[Grid], refit: Refit, importance: Array | None, rounds: int = _ROUNDS
) -> Rounded:
    best: Rounded | None = None
    for scale, zero in starts:
        best = _better(best, round_to(blocks, bits, scale, zero, importance))
    if best is None:
        raise ValueError("a search needs a start")
    for _ in range(rounds):
        scale, zero = refit(blocks, best, importance)
        top = np.float32((1 << bits) - 1)
        zero = np.clip(zero, -0.5, top + np.float32(0.5))
        best = _better(best, round_to(blocks, bits, scale, zero, importance))
    return best


def _evaluate(blocks: Array, bits: int, scale: Array, zero: Array, importance: Array | None) -> Rounded:
    codes = blocks * _inverse(scale)
    codes += zero
    np.clip(np.rint(codes, out=codes), 0, (1 << bits) - 1, out=codes)
    error = (codes - zero) * scale
    error -= blocks
    error *= error
    if importance is not None:
        error *= importance
    return Rounded(scale, zero, codes, error.sum(0))


def _better(old: Rounded | None, new: Rounded) -> Rounded:
    if old is None:
        return new
    use = new.error < old.error
    pick = [np.where(use, getattr(new, name), getattr(old, name)) for name in ("scale", "zero", "codes", "error")]
    return Rounded(*pick)


def _refit_scale(blocks: Array, best: Rounded, importance: Array | None) -> Grid:
    """Least squares for the scale, codes and zero point held."""
    centred = best.codes - best.zero
    counted = centred if importance is None else centred * importance
    return (counted * blocks).sum(0) * _inverse((counted * centred).sum(0)), best.zero


def _refit_scale_and_zero(blocks: Array, best: Rounded, importance: Array | None) -> Grid:
    """Least squares for scale and zero point, codes held: the line through (code, weight)."""
    # The slope is rounded to what is stored before the intercept is set, so that the intercept can make up for it.
    share = np.float32(1 / len(blocks)) if importance is None else importance * _inverse(importance.sum(0))
    mean_code, mean = (best.codes * share).sum(0), (blocks * share).sum(0)
    codes = best.codes - mean_code
    counted = codes if importance is None else codes * importance
    slope = _storable((counted * blocks).sum(0) * _inverse((counted * codes).sum(0)))
    return slope, mean_code - mean * _inverse(slope)


def _storable(scale: Array) -> Array:
    """The nearest float16, which is what a package stores."""
    return scale.astype(np.float16).astype(np.float32)


def _inverse(scale: Array) -> Array:
    """1 / scale, and 0 where scale is 0: a block of zeros has scale 0."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def _whole(zero: Array, top: np.float32) -> Array:
    return np.clip(np.rint(zero), 0, top)
