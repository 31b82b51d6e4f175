"""Rows that answered earlier requests: prompts begin where they hold the same tokens already, so these are never computed again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from edgelm.protocols import DecoderRows


@dataclass(frozen=True, eq=False)
class Kept:
    """A decoder of one row, and the adapter that it was computed with."""

    row: DecoderRows
    adapter: str | None

    def replaces(self, other: Kept) -> bool:
        """Whether it can do all that another one can."""
        ids, length = other.row.ids[0], len(other.row.ids[0])
        alike = self.adapter == other.adapter and shared(self.row.ids[0], ids) == length
        return alike and self.row.holds(0, length, length)


class PrefixCache:
    """Decoders of one row each, least recently used first, whose keys and values take at most `limit` bytes together.

    A row that another prompt goes on from as a whole, as in a chat, changes hands and nothing is copied; one that only begins
    like it is copied up to there. Not every row can go back to an earlier token: a layer with a window may have dropped what
    that saw, and a LongRoPE has other keys for long texts (`DecoderRows.holds`). Such a row is passed over. There are few and
    long rows, so each is compared with the prompt, which costs microseconds.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._rows: list[Kept] = []
        self._lock = Lock()

    @contextmanager
    def rows(self) -> Generator[Sequence[Kept]]:
        """The rows, which nobody takes or writes meanwhile."""
        with self._lock:
            yield self._rows

    def take(
        self, ids: Sequence[int], adapter: str | None = None, under_way: DecoderRows | None = None
    ) -> DecoderRows | None:
        """A decoder whose only row holds the longest beginning of `ids` that is known, never all: the last token is to be fed.

        Args:
            ids: a prompt.
            adapter: what it is read with.
            under_way: rows that are being decoded with that; what they hold is copied if it is more.
        """
        with self._lock:
            alike = [kept.row for kept in self._rows if kept.adapter == adapter]
            best, row, length = None, 0, 0
            for decoder in alike if under_way is None else [*alike, under_way]:
                for number, known in enumerate(decoder.ids):
                    common = min(shared(known, ids), len(ids) - 1)
                    if common > length and decoder.holds(number, common, len(ids)):
                        best, row, length = decoder, number, common
            if best is None or best is under_way:
                return None if best is None else best.copy(row, length)
            self._rows = [kept for kept in self._rows if kept.row is not best]
            if shared(best.ids[0], ids) == len(best.ids[0]):
                best.truncate(0, length)
                return best
            self._rows.append(Kept(best, adapter))
            return best.copy(0, length)

    def put(self, row: DecoderRows, adapter: str | None = None) -> None:
        """Keeps a decoder's only row, unless others hold all of it; those that it holds all of are dropped."""
        length, new = len(row.ids[0]), Kept(row, adapter)
        if not length or not row.holds(0, length, length):
            return
        with self._lock:
            known = next((other for other in self._rows if other.replaces(new)), new)
            self._rows = [other for other in self._rows if other is not known and not new.replaces(other)]
            self._rows.append(known)
            sizes = [sum(array.nbytes for array in kept.row.held(0)) for kept in self._rows]
            while sum(sizes) > self.limit:
                del self._rows[0], sizes[0]

    def clear(self) -> None:
        """Forgets all."""
        with self._lock:
            self._rows.clear()


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # by halves, for slices are compared faster than tokens
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
