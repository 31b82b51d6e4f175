"""Rounding that makes up for its own errors: GPTQ (Frantar et al. 2022, arXiv:2210.17323).

What a column of weights loses to rounding is given to the columns that are still to be rounded, in the proportion in which the
inputs of both go together. Grids stay as they were found; only the codes on them change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

# Share of the mean square of all columns that is added to each: what a text leaves open about a column must not steer others.
_DAMPING = 0.01
# Columns whose errors are passed on among themselves at once, and to all later ones in one product.
_BLOCK = 64


@dataclass(frozen=True)
class Grid:
    """Where the values of rows [n, k] may lie: (code - zero) * scale + offset, each [n, blocks], with codes from 0 to `top`."""

    scale: Array
    zero: Array
    offset: Array
    block_size: int
    top: int

    def values(self, codes: Array) -> Array:
        """What codes [n, k] stand for."""
        parts = (self.scale, self.zero, self.offset)
        scale, zero, offset = (np.repeat(part, self.block_size, 1)[:, : codes.shape[1]] for part in parts)
        return (codes - zero) * scale + offset


class Compensation:
    """What rounding must know of a projection's input, from its second moments [k, k], the mean of x x^T.

    All of it is float64, so that a library which adds up in another order (on another number of threads) changes no code.
    """

    def __init__(self, moments: Wide) -> None:
        self.moments = moments
        weight = np.diagonal(moments)
        mean = float(weight.mean())
        damped = moments + np.diag(np.where(weight > 0, 0, mean) + _DAMPING * mean)
        # The columns that matter most are rounded first, while there are many left to make up for them.
        self._order = np.argsort(-weight, kind="stable")
        turned = damped[np.ix_(self._order, self._order)]
        # With turned = M M^T and M upper triangular, row j of M's inverse says how the error of column j spreads over later ones.
        upper: Wide = np.asarray(np.linalg.cholesky(turned[::-1, ::-1]), np.float64)[::-1, ::-1]
        self._factor = _upper_inverse(np.ascontiguousarray(upper))

    def error(self, difference: Array) -> Wide:
        """Mean squared error of each output when the weights [n, k] are off by this: [n]."""
        wide = difference.astype(np.float64)
        return np.einsum("nk,nk->n", wide @ self.moments, wide)

    def codes(self, rows: Array, grid: Grid, plain: Array) -> Array:
        """Codes [n, k] of rows [n, k]; where the `plain` ones do better by a row, it keeps those."""
        found = self._compensated(rows, grid)
        worse = self.error(grid.values(found) - rows) > self.error(grid.values(plain) - rows)
        found[worse] = plain[worse]
        return found

    def _compensated(self, rows: Array, grid: Grid) -> Array:
        order, factor = self._order, self._factor
        left = np.ascontiguousarray(rows.T[order], np.float64)  # [k, n], in the order of rounding
        codes = np.empty_like(left)
        blocks = order // grid.block_size
        parts = (grid.scale, grid.zero, grid.offset)
        scales, zeros, offsets = (np.ascontiguousarray(part.T, np.float64) for part in parts)
        inverses = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
        for start in range(0, len(left), _BLOCK):
            stop = min(start + _BLOCK, len(left))
            errors = np.empty((stop - start, left.shape[1]))
            for j in range(start, stop):
                at = blocks[j]
                aim = left[j] - offsets[at]
                code = np.clip(np.rint(aim * inverses[at] + zeros[at]), 0, grid.top, out=codes[j])
                error = np.divide(aim - (code - zeros[at]) * scales[at], factor[j, j], out=errors[j - start])
                left[j + 1 : stop] -= factor[j, j + 1 : stop, None] * error
            left[stop:] -= factor[start:stop, stop:].T @ errors
        found = np.empty_like(rows)
        found.T[order] = codes
        return found


def _upper_inverse(upper: Wide) -> Wide:
    """The inverse of an upper triangular matrix, by halves: NumPy's own takes no notice of the zeros and six times as long."""
    k = len(upper)
    if k <= _BLOCK:
        return np.asarray(np.triu(np.linalg.inv(upper)), np.float64)
    half = k // 2
    inverse = np.zeros_like(upper)
    inverse[:half, :half] = _upper_inverse(upper[:half, :half])
    inverse[half:, half:] = _upper_inverse(upper[half:, half:])
    inverse[:half, half:] = -inverse[:half, :half] @ upper[:half, half:] @ inverse[half:, half:]
    return inverse
