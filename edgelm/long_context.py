"""Rows of a program with two sets of rotary positions (LongRoPE): one for short texts, one for whole texts that are longer.

Keys in the cache are turned by one of them, so a row that outgrows the first is fed again from its first token, and so is
one that goes on short after it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.host_memory import buffer


class LongContext:
    """Which rows have keys for long texts."""

    def __init__(self, limit: int, rows: int) -> None:
        """Rows of more than `limit` tokens are long; all are short at first."""
        self._limit = limit
        self._long = [False] * rows

    def turns(self, row: int, length: int) -> bool:
        """Notes that a row will have `length` tokens; true if the keys it has are of the other set."""
        before, self._long[row] = self._long[row], length > self._limit
        return before != self._long[row]

    def fits(self, row: int, length: int) -> bool:
        """Whether the keys of a row are those of a text of that length."""
        return self._long[row] == (length > self._limit)

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from where row parents[i] is."""
        self._long = [self._long[parent] for parent in parents]

    def append(self, other: LongContext) -> None:
        """Adds the rows of another one."""
        self._long += other._long

    def room(self, length: int, most: int) -> int:
        """How many more tokens a row of `length` could have, `most` at most, and still have keys of the same set."""
        return most if length > self._limit else min(most, self._limit - length)

    def flags(self, start: int, stop: int) -> NDArray[np.int64]:
        """1 for each of these rows that is long, int64 [rows]."""
        flags = buffer((stop - start,), "int64")
        flags[:] = self._long[start:stop]
        return flags
