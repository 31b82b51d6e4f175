"""StaticKVCache: key and value buffers that programs fill in place; they grow by buckets, never to the whole context up front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.errors import ContextOverflow
from edgelm.session import buffer
from edgelm.signature import CacheGeometry

_SMALLEST_BUCKET = 256

# Stands for the row that `copies` may use besides those it reorders.
SPARE = -1


class StaticKVCache:
    """Keys and values of a batch of sequences.

    Each layer has two buffers [rows, num_key_value_heads, max_length, head_dim]; the first `lengths[row]` positions of a
    row are valid. There may be more rows in the buffers than `lengths` has: they are room for sequences to come.
    """

    def __init__(self, geometry: CacheGeometry, batch: int, limit: int) -> None:
        """Allocates nothing yet; `limit` is the most positions a row may ever take."""
        self._geometry = geometry
        self.limit = limit
        self._buffers: list[NDArray[Any]] = []
        # How many positions at the beginning two rows have in common, because one was made from the other.
        self._shared = np.zeros((batch, batch), np.int64)
        self.lengths = [0] * batch
        self.max_length = 0
        self.reserve(1)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(array.nbytes for array in self._buffers)

    def reserve(self, length: int) -> bool:
        """Makes room for `length` positions a row; returns whether the buffers moved, so that they must be bound anew.

        Raises:
            ContextOverflow: more than the limit.
        """
        if length <= self.max_length:
            return False
        if length > self.limit:
            raise ContextOverflow(
                f"{length} positions are needed and this model was loaded for {self.limit}; "
                "shorten the input, or load it with a larger max_length"
            )
        capacity = max(_SMALLEST_BUCKET, self.max_length)
        while capacity < length:
            capacity *= 2
        self._rebuild(list(range(len(self.lengths))), min(capacity, self.limit))
        return True

    def advance(self, row: int, count: int) -> None:
        """Notes that a program wrote `count` more positions of a row."""
        self.lengths[row] += count

    def truncate(self, row: int, length: int) -> None:
        """Forgets what lies beyond `length`; nothing needs clearing, the next step overwrites it."""
        self.lengths[row] = min(self.lengths[row], length)
        self._shared[row] = np.minimum(self._shared[row], length)
        self._shared[:, row] = self._shared[row]

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from what row parents[i] holds; the batch becomes len(parents) rows.

        Copied is only what differs: rows whose parent is another row, from the first position on in which both differ.
        """
        if len(parents) > len(self._buffers[0]):
            self._rebuild(parents, self.max_length)
        else:
            self._copy_rows({row: parent for row, parent in enumerate(parents) if row != parent})
        self.lengths = [self.lengths[parent] for parent in parents]
        index = np.array(parents, np.intp)
        siblings = index[:, None] == index
        self._shared = np.where(siblings, np.array(self.lengths), self._shared[index[:, None], index])

    def rows(self, start: int, stop: int) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
        """Inputs and outputs to bind for these rows: views of the same memory, since the program updates them in place."""
        inputs: dict[str, NDArray[Any]] = {}
        outputs: dict[str, NDArray[Any]] = {}
        for position, array in enumerate(self._buffers):
            layer, kind = position // 2, signature.KINDS[position % 2]
            inputs[signature.past(layer, kind)] = outputs[signature.present(layer, kind)] = array[start:stop]
        return inputs, outputs

    def _copy_rows(self, parents: Mapping[int, int]) -> None:
        spare: list[NDArray[Any]] = []
        for source, target in copies(parents):
            if target == SPARE:
                spare = [array[source, :, : self.lengths[source]].copy() for array in self._buffers]
                continue
            parent = parents[target]
            begin = self._shared[target, parent] if target < len(self.lengths) else 0
            end = self.lengths[parent]
            for position, array in enumerate(self._buffers):
                held = spare[position] if source == SPARE else array[source]
                array[target, :, begin:end] = held[:, begin:end]

    def _rebuild(self, parents: Sequence[int], capacity: int) -> None:
        """New buffers of `capacity` positions, whose rows hold what their parents did."""
        g, longest = self._geometry, max(self.lengths)
        shape = (len(parents), g.num_key_value_heads, capacity, g.head_dim)
        rebuilt = [buffer(shape, g.dtype) for _ in range(2 * g.num_layers)]
        for old, new in zip(self._buffers, rebuilt, strict=False):
            for row, parent in enumerate(parents):
                new[row, :, :longest] = old[parent, :, :longest]
        self._buffers = rebuilt
        self.max_length = capacity


def copies(parents: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """(source, target) of copies that give each row (key) the contents of another (value), in an order that works.

    No row is overwritten before all who want its contents have them. Rows that only wait for each other take a detour
    over SPARE, one at a time.
    """
    waiting = dict(parents)
    readers = {row: 0 for row in [*parents, *parents.values()]}
    for parent in parents.values():
        readers[parent] += 1
    free = [row for row in waiting if not readers[row]]
    moved: dict[int, int] = {}  # where the contents of a row are now, if not in it
    while waiting:
        if not free:
            row = next(iter(waiting))
            yield row, SPARE
            moved = {row: SPARE}
            free.append(row)
        target = free.pop()
        parent = waiting.pop(target)
        yield moved.get(parent, parent), target
        readers[parent] -= 1
        if parent in waiting and not readers[parent] and parent not in moved:
            free.append(parent)
