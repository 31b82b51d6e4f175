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
_DAMPING = 0.03
# Columns whose errors are passed on one by one; those of more columns are passed on in one product.
_FEW = 8
# Steps of a column's importance an octave.
_STEPS = 4
# Columns of a factor that are found at once.
_BLOCK = 192


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
        # With damped = M M^T and M upper triangular, the error of weights off by d is |d M|^2: column j of M says what the errors
        # of the columns before it do to a sum that the error of column j, the only other one in it, can bring back to nothing.
        factor = _upper_factor(damped[np.ix_(self._order, self._order)])
        own = np.diagonal(factor)
        self._passed_on = factor / own
        # What an error of each column costs that no other one makes up for: [k], in steps, so that no last bit moves a grid.
        self.importance = np.empty(len(own), np.float32)
        self.importance[self._order] = np.exp2(np.rint(2 * _STEPS * np.log2(own)) / _STEPS)

    def error(self, difference: Array) -> Wide:
        """Mean squared error of each output when the weights [n, k] are off by this: [n]."""
        wide = difference.astype(np.float64)
        return np.einsum("nk,nk->n", wide @ self.moments, wide)

    def codes(self, rows: Array, grid: Grid) -> Array:
        """Codes [n, k] of rows [n, k] on a grid."""
        order, passed_on = self._order, self._passed_on
        weights = np.ascontiguousarray(rows.T[order], np.float64)  # [k, n], in the order of rounding
        codes = np.empty_like(weights)
        errors = np.zeros_like(weights)  # of columns that are rounded; of the others, what they are to make up for
        blocks = order // grid.block_size
        scales, zeros, offsets = (
            np.ascontiguousarray(part.T, np.float64) for part in (grid.scale, grid.zero, grid.offset)
        )
        inverses = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)

        def settle(start: int, stop: int) -> None:
            """Rounds columns, which know of all errors before `start`."""
            if stop - start > _FEW:
                middle = (start + stop) // 2
                settle(start, middle)
                errors[middle:stop] += passed_on[start:middle, middle:stop].T @ errors[start:middle]
                settle(middle, stop)
                return
            for j in range(start, stop):
                at = blocks[j]
                weight = weights[j] - offsets[at]
                code = np.multiply(weight + errors[j], inverses[at], out=codes[j])
                code += zeros[at]
                np.clip(np.rint(code, out=code), 0, grid.top, out=code)
                np.subtract(weight, (code - zeros[at]) * scales[at], out=errors[j])
                errors[j + 1 : stop] += passed_on[j, j + 1 : stop, None] * errors[j]

        settle(0, len(weights))
        found = np.empty_like(rows)
        found.T[order] = codes
        return found


def _upper_factor(matrix: Wide) -> Wide:
    """The upper triangular M with M M^T = matrix [k, k], from its last columns to its first; NumPy has one by single columns only."""
    factor, rest = np.zeros_like(matrix), matrix.copy()
    for stop in range(len(matrix), 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        corner = np.linalg.cholesky(rest[start:stop, start:stop][::-1, ::-1])[::-1, ::-1]
        above = rest[:start, start:stop] @ np.linalg.inv(corner).T
        rest[:start, :start] -= above @ above.T
        factor[start:stop, start:stop], factor[:start, start:stop] = corner, above
    return factor
