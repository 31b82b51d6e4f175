"""Rows of a program with two sets of rotary positions (LongRoPE): one for short texts, one for whole texts that are longer.

Keys in the cache are turned by one of them, so a row that outgrows the first is fed again from its first token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.session import buffer


class LongContext:
    """Which rows are long, and the ids of every row so far."""

    def __init__(self, limit: int, rows: int) -> None:
        """Rows of more than `limit` tokens are long; all are empty at first."""
        self._limit = limit
        self._ids: list[list[int]] = [[] for _ in range(rows)]

    def grow(self, row: int, ids: Sequence[int]) -> list[int]:
        """Notes that a row grows by `ids`; gives those before them if they have to be fed again."""
        known = self._ids[row]
        before = len(known)
        known.extend(ids)
        return known[:before] if before <= self._limit < len(known) else []

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from where row parents[i] is."""
        self._ids = [list(self._ids[parent]) for parent in parents]

    def flags(self, start: int, stop: int) -> NDArray[np.int64]:
        """1 for each of these rows that is long, int64 [rows]."""
        flags = buffer((stop - start,), "int64")
        flags[:] = [len(ids) > self._limit for ids in self._ids[start:stop]]
        return flags
