"""Rounding of weight blocks: blocks [block_size, count] in, float16 scales, zero points and integer codes out.

A code q stands for (q - zero) * scale. Each block is a column here: sums over a block are then plain vector additions. The searches
minimise the squared error of a block; the simple rule of the format is always among the candidates, so they are never worse than it.

A candidate takes one pass over the weights, for its codes and the sums of q, q^2 and q * w. The error, and the grid that would fit these
codes best, follow from the sums alone:

    sum ((q - zero) * scale - w)^2 = scale^2 * sum (q - zero)^2 - 2 * scale * sum (q - zero) * w + sum w^2

Where `importance` is given, of the shape of the blocks and 1 on average in each, every term of every sum counts by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float32]
Grid: TypeAlias = tuple[Array, Array]  # scale, zero: [count] each

_ROUNDS = 3  # of least squares; others gain less than 0.5 % of the squared error
_SMALL = 64  # weights of a block; larger ones get one round and one start more
_MANY = 0.7  # blocks that still gain, of all: to leave the others out would cost more than it saves
_PROBED = 8  # rows that tell almost all blocks that lie on no grid of their own
_NEAR = np.float32(0.2)  # of a step; a block on its own grid is nearer than this with every weight


@dataclass(frozen=True)
class Rounded:
    """One grid and the codes on it: scale and zero [count], codes [block_size, count] as whole float32 numbers."""

    scale: Array
    zero: Array
    codes: Array


@dataclass(frozen=True)
class Fit:
    """A grid for each block, and what its codes q come to: squared error, sums of q, q^2 and q * w; [count] each."""

    scale: Array
    zero: Array
    error: Array
    codes: Array
    squares: Array
    products: Array

    def put(self, chosen: npt.NDArray[np.intp], others: Fit) -> None:
        """Replaces that of some blocks."""
        for part, new in zip(self.parts(), others.parts(), strict=True):
            part[chosen] = new

    def parts(self) -> tuple[Array, ...]:
        """All of it."""
        return self.scale, self.zero, self.error, self.codes, self.squares, self.products

    def at(self, chosen: npt.NDArray[np.intp]) -> Fit:
        """That of some blocks."""
        return Fit(*(part[chosen] for part in self.parts()))

    def better(self, other: Fit) -> Fit:
        """For each block the one with less error; its own where they are equal. One of the two is changed."""
        use = other.error < self.error
        gains = 2 * np.count_nonzero(use) > len(use)
        old, new = (self, other) if gains else (other, self)
        moved = np.flatnonzero(~use if gains else use)
        new.put(moved, old.at(moved))
        return new


class Blocks:
    """Blocks [block_size, count], what of them every candidate needs, and room for its codes."""

    def __init__(
        self, values: Array, bits: int, importance: Array | None = None, sums: tuple[Array, Array] | None = None
    ) -> None:
        """`sums`: of w and of w^2, [count] each, where they are known."""
        self.values = values
        self._importance = importance
        self._counted = values if importance is None else values * importance
        self.top = np.float32((1 << bits) - 1)
        self.size = np.float32(len(values))
        self.sum, self._squares = sums or (_sums(self._counted), _dots(self._counted, values))
        self._codes = np.empty_like(values)
        self._bits = bits

    def codes(self, scale: Array, zero: Array) -> Array:
        """The nearest codes on a grid; the next call overwrites them."""
        return _codes(self.values, scale, zero, self.top, self._codes)

    def fit(self, scale: Array, zero: Array) -> Fit:
        """What a grid comes to."""
        codes = self.codes(scale, zero)
        counted = codes if self._importance is None else codes * self._importance
        total = counted.sum(0)
        squares, products = _dots(counted, codes), _dots(codes, self._counted)
        spread, product = self.about(zero, total, squares, products)
        error = scale * spread
        error -= product + product
        error *= scale
        error += self._squares
        return Fit(scale, zero, error, total, squares, products)

    def about(self, zero: Array, codes: Array, squares: Array, products: Array) -> tuple[Array, Array]:
        """Sums of (q - zero)^2 and of (q - zero) * w, from those of q, q^2 and q * w."""
        spread = np.subtract(squares, zero * (codes + codes - self.size * zero))
        return spread, np.subtract(products, zero * self.sum)

    def at(self, chosen: npt.NDArray[np.intp]) -> Blocks:
        """Some of the blocks."""
        sums = self.sum[chosen], self._squares[chosen]
        importance = None if self._importance is None else np.take(self._importance, chosen, axis=1)
        return Blocks(np.take(self.values, chosen, axis=1), self._bits, importance, sums)

    def rounded(self, fit: Fit) -> Rounded:
        """The codes of a grid that was found."""
        return Rounded(fit.scale, fit.zero, self.codes(fit.scale, fit.zero))


def symmetric(values: Array, bits: int, importance: Array | None = None) -> Rounded:
    """Zero point 2^(bits-1): searched scale, starting where the largest value is the lowest code."""
    half = float(1 << (bits - 1))
    low, high = values.min(0), values.max(0)
    zero = np.full(values.shape[1], half, np.float32)
    blocks = Blocks(values, bits, importance)
    lowest = _largest(values, low, high) / np.float32(-half)
    narrower = _narrower(blocks)
    parts = (1.0, narrower, -half / (half - 1), *([0.93 * narrower] if blocks.size > _SMALL else []))
    starts = [(_storable(lowest * np.float32(part)), zero) for part in parts]
    return blocks.rounded(_search(blocks, starts, _refit_scale))


def asymmetric(values: Array, bits: int, importance: Array | None = None) -> Rounded:
    """Whole zero point: simple rule is the range from lowest to highest value, with 0 in it."""
    blocks = Blocks(values, bits, importance)
    starts = ((scale, _whole(zero, blocks.top)) for scale, zero in _starts(*_range(values), blocks))
    return blocks.rounded(_search(blocks, starts, _refit_scale_and_whole_zero))


def affine(values: Array, bits: int, importance: Array | None = None) -> Rounded:
    """Fractional zero point.

    A block of evenly spaced values is kept as it is when it uses all 2^bits levels but at most two at the ends (Q4_1, Q4_K).
    """
    blocks = Blocks(values, bits, importance)
    return blocks.rounded(_affine(blocks, *_range(values)))


def nearest_bytes(values: Array) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Scales [count] and 8-bit codes of blocks [count, block_size], as they lie in rows: round to nearest, zero point 128.

    The largest value is code 255 or 1, as in Q8_0, whose integers are thus kept.
    """
    codes = np.abs(values)
    # By halves, for NumPy takes longer along a short row than from one half to the other.
    largest = codes
    while largest.shape[1] % 2 == 0:
        half = largest.shape[1] // 2
        largest = np.maximum(largest[:, :half], largest[:, half:])
    scale = _storable(largest.max(1) / np.float32(127))
    np.multiply(values, _inverse(scale)[:, None], out=codes)
    codes += np.float32(128)
    np.rint(codes, out=codes)
    return scale, np.clip(codes, np.float32(0), np.float32(255), out=codes).astype(np.uint8)


def _affine(blocks: Blocks, low: Array, high: Array) -> Fit:
    best = _search(blocks, _starts(low, high, blocks), _refit_scale_and_zero)
    for empty in (1, 2):
        scale = _storable(np.divide(high - low, blocks.top - np.float32(empty)))
        zero = -low * _inverse(scale)
        own = _on_grid(blocks.values, scale, zero)
        if not own.size:
            continue
        some = blocks.at(own)
        found = _search(some, [(scale[own], zero[own])], _refit_scale_and_zero, 1)
        # Only where it is the block's own grid: elsewhere a little less squared error came with 10 % more divergence.
        exact = (found.error < blocks.size * np.square(found.scale / np.float32(50))) & (found.error < best.error[own])
        best.put(own[exact], found.at(np.flatnonzero(exact)))
    return best


def _on_grid(values: Array, scale: Array, zero: Array) -> npt.NDArray[np.intp]:
    """The blocks whose weights all lie near points of a grid; almost all others are told by their first rows."""
    places = values[:_PROBED] * _inverse(scale)
    places += zero
    places -= np.rint(places)
    own = np.flatnonzero(np.abs(places, out=places).max(0) < _NEAR)
    if own.size == 0 or len(values) <= _PROBED:
        return own
    return own[_on_grid(np.take(values[_PROBED:], own, axis=1), scale[own], zero[own])]


def _range(values: Array) -> Grid:
    """Lowest and highest value of each block, with 0 among them, so that the zero point lies between codes."""
    return np.minimum(values.min(0), 0), np.maximum(values.max(0), 0)


def _largest(values: Array, low: Array, high: Array) -> Array:
    """Of each block the value that is farthest from 0, the first of several."""
    largest = np.where(high > -low, high, low)
    tied = np.flatnonzero(high == -low)
    if tied.size:
        both = values[:, tied]
        largest[tied] = np.take_along_axis(both, np.abs(both).argmax(0)[None], 0)[0]
    return largest


def _starts(low: Array, high: Array, blocks: Blocks) -> Iterator[Grid]:
    """The range of each block, and a little less of it around the middle."""
    for part in (1.0, _narrower(blocks)):
        scale = _storable(np.divide((high - low) * np.float32(part), blocks.top))
        yield scale, (blocks.top - (low + high) * _inverse(scale)) * np.float32(0.5)


def _narrower(blocks: Blocks) -> float:
    """The part of a block's range that most often fits it better than the whole: the more values, the farther out the last of them."""
    return 0.95 - 0.02 * max(0, int(blocks.size).bit_length() - 6)  # found on normal, Laplace and Student's t values


def _search(
    blocks: Blocks, starts: Iterable[Grid], refit: Callable[[Blocks, Fit], Grid], rounds: int | None = None
) -> Fit:
    """The best of the starts, refined in so many rounds."""
    if rounds is None:
        rounds = _ROUNDS if blocks.size <= _SMALL else _ROUNDS + 1
    best: Fit | None = None
    for start in starts:
        found = blocks.fit(*start)
        best = found if best is None else best.better(found)
    if best is None:
        raise ValueError("a search needs a start")
    return _refined(blocks, best, refit, rounds)


def _refined(blocks: Blocks, best: Fit, refit: Callable[[Blocks, Fit], Grid], rounds: int) -> Fit:
    """Grids refitted to the codes of the best so far. A block that gained nothing is left out: it would be offered the same again."""
    if rounds == 0:
        return best
    scale, zero = refit(blocks, best)
    found = blocks.fit(scale, np.clip(zero, np.float32(-0.5), blocks.top + np.float32(0.5)))
    gained = np.flatnonzero(found.error < best.error)
    if len(gained) > _MANY * len(best.error):
        return _refined(blocks, best.better(found), refit, rounds - 1)
    if len(gained):
        best.put(gained, _refined(blocks.at(gained), found.at(gained), refit, rounds - 1))
    return best


def _refit_scale(blocks: Blocks, best: Fit) -> Grid:
    """Least squares for the scale, codes and zero point held."""
    spread, product = blocks.about(best.zero, best.codes, best.squares, best.products)
    return _storable(product * _inverse(spread)), best.zero


def _refit_scale_and_whole_zero(blocks: Blocks, best: Fit) -> Grid:
    """Least squares for both, the zero point rounded, and least squares for the scale beside it."""
    _, zero = _refit_scale_and_zero(blocks, best)
    return _refit_scale(blocks, replace(best, zero=_whole(zero, blocks.top)))


def _refit_scale_and_zero(blocks: Blocks, best: Fit) -> Grid:
    """Least squares for scale and zero point, codes held: the line through (code, weight)."""
    # The slope is rounded to what is stored before the intercept is set, so that the intercept can make up for it.
    code, weight = np.divide(best.codes, blocks.size), np.divide(blocks.sum, blocks.size)
    slope = _storable((best.products - code * blocks.sum) * _inverse(best.squares - code * best.codes))
    return slope, code - weight * _inverse(slope)


def _codes(values: Array, scale: Array, zero: Array, top: np.float32, out: Array) -> Array:
    np.multiply(values, _inverse(scale), out=out)
    out += zero
    np.rint(out, out=out)
    return np.clip(out, np.float32(0), top, out=out)


def _sums(a: Array) -> Array:
    """Sums over each block."""
    return _not_alone(a).sum(0)[: a.shape[1]]


def _dots(a: Array, b: Array) -> Array:
    """Sums of a * b over each block."""
    return np.einsum("ij,ij->j", _not_alone(a), _not_alone(b))[: a.shape[1]]


def _not_alone(a: Array) -> Array:
    """A lone block twice: NumPy adds in another order when there is only one, and a block's neighbours must not matter."""
    return a if a.shape[1] != 1 else np.repeat(a, 2, axis=1)


def _storable(scale: Array) -> Array:
    """The nearest float16, which is what a package stores."""
    return scale.astype(np.float16).astype(np.float32)


def _inverse(scale: Array) -> Array:
    """1 / scale, and 0 where scale is 0: a block of zeros has scale 0."""
    return np.divide(np.float32(1), np.where(scale == 0, np.float32(np.inf), scale))


def _whole(zero: Array, top: np.float32) -> Array:
    return np.clip(np.rint(zero), 0, top)
