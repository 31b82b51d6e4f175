"""What an encoder made of each source, for the decoder's rows to read: stored once a source, however many beams read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgelm.cache import SPARE, copies
from edgelm.session import Array


class SourceMemory:
    """Arrays [sources, ...] (cross-attention keys and values, the mask of the source), and which source each row reads.

    A program finds the rows of a source next to each other, and as many of each: rows = sources * beams. At first there is
    one row a source.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        """Takes the arrays over, by the name of the input they are bound to; they are written when rows leave."""
        self._arrays: dict[str, Any] = dict(arrays)
        self._sources = list(range(min(len(array) for array in self._arrays.values())))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def inputs(self, start: int, stop: int) -> Mapping[str, Any]:
        """Views to bind for these rows: the sources they read."""
        first, last = self._sources[start], self._sources[stop - 1]
        return {name: array[first : last + 1] for name, array in self._arrays.items()}

    def reorder(self, parents: Sequence[int]) -> bool:
        """Row i reads from now on what row parents[i] read; returns whether that must be bound anew.

        Beams that change places cost nothing, and a source that left one copy at most. Rows that do not stand as the
        program wants them get a copy of their source each.
        """
        read = [self._sources[parent] for parent in parents]
        kept = list(dict.fromkeys(read))
        beams = len(read) // len(kept)
        if read != [source for source in kept for _ in range(beams)]:
            kept, beams = read, 1
        before, self._sources = self._sources, [place for place in range(len(kept)) for _ in range(beams)]
        self._keep(kept)
        return self._sources != before

    def _keep(self, kept: Sequence[int]) -> None:
        """Puts the sources `kept` at places 0, 1, 2 ...; the rest is forgotten."""
        if len(set(kept)) < len(kept):
            self._arrays = {name: array.take(list(kept), axis=0) for name, array in self._arrays.items()}
            return
        spare: list[Any] = []
        for source, target in copies({place: source for place, source in enumerate(kept) if place != source}):
            if target == SPARE:
                spare = [array[source].copy() for array in self._arrays.values()]
                continue
            for position, array in enumerate(self._arrays.values()):
                array[target] = spare[position] if source == SPARE else array[source]
