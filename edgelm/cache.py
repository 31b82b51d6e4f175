"""StaticKVCache: key and value buffers that programs fill in place; they grow by buckets, never to the whole context up front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgelm import signature
from edgelm.errors import ContextOverflow, GenerationError, OutOfDeviceMemory
from edgelm.host_memory import HOST_MEMORY
from edgelm.session import Memory
from edgelm.signature import CacheGeometry, LayerCache

_SMALLEST_BUCKET = 256

# Positions that a buffer has beyond its window. The kernel moves a full buffer down by this many and one, so with none it
# would move the whole window at every step, which takes a quarter again of the attention's own time.
_WINDOW_SLACK = 16

# Stands for the row that `copies` may use besides those it reorders.
SPARE = -1


def check_room(length: int, limit: int) -> None:
    """A row may take so many positions.

    Raises:
        ContextOverflow: more than the limit.
    """
    if length > limit:
        raise ContextOverflow(
            f"{length} positions are needed and this model was loaded for {limit}; "
            "shorten the input, or load it with a larger max_length"
        )


class StaticKVCache:
    """Keys and values of a batch of sequences.

    Each layer has two buffers [rows, num_key_value_heads, positions, head_dim], or one where keys and values are the same;
    the first `lengths[row]` positions of a row are valid. A layer with a window keeps the last ones only, in a buffer that
    never grows. There may be more rows in the buffers than `lengths` has: they are room for sequences to come.
    """

    def __init__(self, geometry: CacheGeometry, batch: int, limit: int, memory: Memory = HOST_MEMORY) -> None:
        """Allocates little yet; `limit` is the most positions a row may ever take, `memory` is where the buffers live."""
        self._geometry = geometry
        self._memory = memory
        # Which layer each buffer belongs to, and which kind it is.
        self._owners = [(i, layer, kind) for i, layer in enumerate(geometry.layers) for kind in layer.buffers]
        self.limit = limit
        self._buffers: list[Any] = []
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
        """Makes room for `length` positions a row; returns whether buffers moved, so that they must be bound anew.

        Raises:
            ContextOverflow: more than the limit.
            OutOfDeviceMemory: the device has no room for it; what is there stays.
        """
        if length <= self.max_length:
            return False
        check_room(length, self.limit)
        self._rebuild(self._same, len(self.lengths), min(self._bucket(length), self.limit))
        return True

    def advance(self, row: int, count: int) -> None:
        """Notes that a program wrote `count` more positions of a row."""
        self.lengths[row] += count

    def truncate(self, row: int, length: int) -> None:
        """Forgets what lies beyond `length`; nothing needs clearing, the next step overwrites it.

        Raises:
            GenerationError: a layer with a window has dropped what it would need again. Forgetting all is always possible.
        """
        length = min(self.lengths[row], length)
        lost = self._lost(row, length)
        if lost is not None:
            i, layer = lost
            raise GenerationError(
                f"row {row} cannot go back from {self.lengths[row]} to {length} positions: layer {i} keeps the last "
                f"{layer.window} only; truncate it to 0 and feed it again"
            )
        self.lengths[row] = length
        self._shared[row] = np.minimum(self._shared[row], length)
        self._shared[:, row] = self._shared[row]

    def holds(self, row: int, length: int) -> bool:
        """Whether a row could go back to `length` positions."""
        return self._lost(row, length) is None

    def undoable(self, length: int, most: int) -> int:
        """How many positions a row of `length` could go on, `most` at most, and come back from: no window moves meanwhile."""
        windows = {layer.window: layer for layer in self._geometry.layers if layer.window is not None}.values()
        return min([most, *[first_position(layer, length) + capacity(layer, 0) - length for layer in windows]])

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from what row parents[i] holds; the batch becomes len(parents) rows.

        Copied is only what differs: rows whose parent is another row, from the first position on in which both differ.
        """
        if len(parents) > self.room:
            self._rebuild(parents, len(parents), self.max_length)
        else:
            self._copy_rows({row: parent for row, parent in enumerate(parents) if row != parent})
        self.lengths = [self.lengths[parent] for parent in parents]
        index = np.array(parents, np.intp)
        siblings = index[:, None] == index
        self._shared = np.where(siblings, np.array(self.lengths), self._shared[index[:, None], index])

    def copy(self, row: int, length: int) -> StaticKVCache:
        """A cache of its own with one row that holds the first `length` positions of this one, which `holds` them."""
        found = StaticKVCache(self._geometry, 1, self.limit, self._memory)
        found.reserve(length)
        found.lengths = [length]
        _fill(found.held(0), self.held(row, length))
        return found

    def append(self, other: StaticKVCache) -> bool:
        """Adds a copy of another cache's only row as the last one; returns whether buffers moved.

        Room for rows doubles each time, so that a batch may grow one by one.
        """
        rows, (length,) = len(self.lengths), other.lengths
        self.limit = max(self.limit, other.limit)
        moved = rows == self.room or length > self.max_length
        if moved:
            positions = max(self.max_length, min(self._bucket(length), self.limit))
            self._rebuild(self._same, 2 * rows if rows == self.room else self.room, positions)
        self.lengths.append(length)
        self._shared = np.pad(self._shared, (0, 1))
        _fill(self.held(rows), other.held(0))
        return moved

    def held(self, row: int, length: int | None = None) -> list[Any]:
        """Views [num_key_value_heads, positions, head_dim] of all that a row holds, or of its first `length` positions."""
        end = self.lengths[row] if length is None else length
        owned = zip(self._owners, self._buffers, strict=True)
        return [array[row, :, : end - first_position(layer, end)] for (_, layer, _), array in owned]

    def rows(self, start: int, stop: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Inputs and outputs to bind for these rows: views of the same memory, since the program updates them in place."""
        inputs: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        for (i, _, kind), array in zip(self._owners, self._buffers, strict=True):
            inputs[signature.past(i, kind)] = outputs[signature.present(i, kind)] = array[start:stop]
        return inputs, outputs

    @property
    def room(self) -> int:
        """Rows that the buffers have."""
        return len(self._buffers[0])

    @property
    def _same(self) -> list[int]:
        return list(range(len(self.lengths)))

    def _lost(self, row: int, length: int) -> tuple[int, LayerCache] | None:
        """The first layer that has dropped what a row of `length` positions would need, and its number."""
        windows = [(i, layer) for i, layer in enumerate(self._geometry.layers) if length and layer.window is not None]
        now = self.lengths[row]
        return next((one for one in windows if first_position(one[1], length) != first_position(one[1], now)), None)

    def _bucket(self, length: int) -> int:
        """Positions to make room for: twice as many each time, or an eighth more where decode steps go through the whole buffer."""
        if any(layer.latent for _, layer, _ in self._owners):
            step = _SMALLEST_BUCKET * max(1, length // (8 * _SMALLEST_BUCKET))
            return -(-length // step) * step
        capacity = max(_SMALLEST_BUCKET, self.max_length)
        while capacity < length:
            capacity *= 2
        return capacity

    def _copy_rows(self, parents: Mapping[int, int]) -> None:
        spare: list[Any] = []
        for source, target in copies(parents):
            if target == SPARE:
                spare = [array[source, :, : self.lengths[source]].copy() for array in self._buffers]
                continue
            for position, (_, layer, _) in enumerate(self._owners):
                begin, end = self._differing(layer, target, parents[target])
                array = self._buffers[position]
                held = spare[position] if source == SPARE else array[source]
                array[target, :, begin:end] = held[:, begin:end]

    def _differing(self, layer: LayerCache, target: int, parent: int) -> tuple[int, int]:
        """From where to where in its buffer a row must be overwritten to hold what its parent does."""
        length = self.lengths[parent]
        first = first_position(layer, length)
        if target >= len(self.lengths) or first_position(layer, self.lengths[target]) != first:
            return 0, length - first
        return max(0, int(self._shared[target, parent]) - first), length - first

    def _rebuild(self, parents: Sequence[int], rows: int, max_length: int) -> None:
        """Buffers with room for so many rows and positions, of which the first hold what their parents did."""
        before, buffers = self._buffers, list[Any]()
        for position, (_, layer, _) in enumerate(self._owners):
            shape = (rows, layer.num_key_value_heads, capacity(layer, max_length), layer.head_dim)
            if before and before[position].shape == shape:  # a window, which has all the room it wants
                buffers.append(before[position])
                continue
            try:
                new = self._memory.empty(shape, self._geometry.dtype, sparse=layer.window is not None)
            except OutOfDeviceMemory as error:
                raise self._advised(error, sum(one.nbytes for one in buffers), rows, max_length) from error
            for row, parent in enumerate(parents if before else ()):
                length = self.lengths[parent]
                new[row, :, :length] = before[position][parent, :, :length]
            if before and self._memory is HOST_MEMORY:
                # Or the whole cache would lie there twice. A device may run full, and then what was there has to stay.
                before[position] = new
            buffers.append(new)
        self._buffers, self.max_length = buffers, max_length

    def _advised(self, error: OutOfDeviceMemory, taken: int, rows: int, max_length: int) -> OutOfDeviceMemory:
        """The error with what the cache takes and what would fit; `taken` bytes of the new buffers are there already."""
        each = rows * self._geometry.bytes_per_token
        windows = rows * self._geometry.window_bytes
        fits = max(0, error.free + taken - windows) // each if each else 0
        room = f"about {fits:,} would fit beside what is there" if fits else "not one would fit beside what is there"
        return error.advise(
            f"a KV cache of {max_length:,} positions in {rows} rows takes {(each * max_length + windows) / 1e6:,.1f} MB and {room}; "
            "load it with a smaller max_length (--max-length), or run fewer rows at a time"
        )


def _fill(targets: Sequence[Any], sources: Sequence[Any]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target[...] = source


def capacity(layer: LayerCache, max_length: int) -> int:
    """How many positions the buffer of a layer has where sequences may have `max_length`."""
    return max_length if layer.window is None else layer.window + _WINDOW_SLACK


def first_position(layer: LayerCache, length: int) -> int:
    """Which position stands first in the buffer of a layer after `length` of them; the others follow in their order.

    The rule is the kernel's (GroupQueryAttention, `sliding_window_cache`): a full buffer gives up its slack and one more. It
    depends on the length alone, not on the steps in which it was reached.
    """
    if layer.window is None:
        return 0
    step = _WINDOW_SLACK + 1
    return step * max(0, -(-(length - capacity(layer, length)) // step))


def inherited(ids: list[list[int]], parents: Sequence[int]) -> list[list[int]]:
    """The ids of rows that go on from their parents: the first heir of a row has its list, the others copies."""
    heirs = {parent: row for row, parent in reversed(list(enumerate(parents)))}
    return [ids[parent] if heirs[parent] == row else list(ids[parent]) for row, parent in enumerate(parents)]


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
