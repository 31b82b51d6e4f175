"""Repetitions in a list of ids that grows: what DRY disfavours (penalties.py), and what prompt lookup bets on (speculation.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Reader:
    """Follows one list of ids that grows, so that it is read once, however long the prompt."""

    def __init__(self) -> None:
        self._known: Sequence[int] | None = None
        self._length, self._last = 0, -1

    def unread(self, ids: Sequence[int]) -> int:
        """Where the part begins that is new since the last call; 0 for any other list, such as another beam's."""
        begin = self._length
        if ids is not self._known or begin > len(ids) or (begin and ids[begin - 1] != self._last):
            begin = 0
        self._known, self._length, self._last = ids, len(ids), int(ids[-1]) if len(ids) else -1
        return begin


class Repeats:
    """How many of the last ids stood before, ending at each earlier place. One more id costs one pass over them."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._text, self._lengths = np.empty(64, np.int64), np.zeros(64, np.int64)

    def of(self, ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids [n], and for every place but the last how many ids up to it equal the last ones [n - 1]."""
        unread, end = self._reader.unread(ids), len(ids)
        while end > self._text.size:
            self._text = np.concatenate([self._text, np.empty_like(self._text)])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        self._text[unread:end] = ids[unread:end]
        if unread:
            for count in range(unread, end):
                self._prolong(count)
        else:
            self._begin_afresh(end)
        return self._text[:end], self._lengths[: max(end - 1, 0)]

    def _prolong(self, count: int) -> None:
        """Place `count` is new: what ends at place i is one longer than what ended at i - 1 before, if the ids are equal."""
        equal = self._text[:count] == self._text[count]
        np.multiply(self._lengths[: count - 1] + 1, equal[1:], out=self._lengths[1:count])
        self._lengths[0] = equal[0]

    def _begin_afresh(self, end: int) -> None:
        text, self._lengths[:] = self._text[:end], 0
        at, length = np.arange(max(end - 1, 0)), 0
        while at.size:
            at = at[text[at - length] == text[end - 1 - length]]
            length += 1
            self._lengths[at] = length
            at = at[at >= length]
