"""StaticKVCache: key and value buffers that programs fill in place; they grow by buckets, never to the whole context up front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.errors import ContextOverflow
from edgelm.session import buffer
from edgelm.signature import CacheGeometry

_SMALLEST_BUCKET = 256


class StaticKVCache:
    """Keys and values of a batch of sequences.

    Each layer has two buffers [batch, num_key_value_heads, max_length, head_dim]; the first `lengths[row]` positions of a row are valid.
    """

    def __init__(self, geometry: CacheGeometry, batch: int, limit: int) -> None:
        """Allocates nothing yet; `limit` is the most positions a row may ever take."""
        self._geometry = geometry
        self._limit = limit
        self._buffers: list[NDArray[Any]] = []
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
        if length > self._limit:
            raise ContextOverflow(
                f"{length} positions are needed and this model was loaded for {self._limit}; "
                "shorten the input, or load it with a larger max_length"
            )
        capacity = max(_SMALLEST_BUCKET, self.max_length)
        while capacity < length:
            capacity *= 2
        self._grow(min(capacity, self._limit))
        return True

    def advance(self, row: int, count: int) -> None:
        """Notes that a program wrote `count` more positions of a row."""
        self.lengths[row] += count

    def truncate(self, row: int, length: int) -> None:
        """Forgets what lies beyond `length`; nothing needs clearing, the next step overwrites it."""
        self.lengths[row] = min(self.lengths[row], length)

    def move(self, source: int, target: int) -> None:
        """Copies a row's valid positions over another row."""
        length = self.lengths[source]
        for array in self._buffers:
            array[target, :, :length] = array[source, :, :length]
        self.lengths[target] = length

    def shrink(self, batch: int) -> None:
        """Drops the rows from `batch` on; the others stay where they are."""
        self._buffers = [array[:batch] for array in self._buffers]
        del self.lengths[batch:]

    def rows(self, start: int, stop: int) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
        """Inputs and outputs to bind for these rows: views of the same memory, since the program updates them in place."""
        inputs: dict[str, NDArray[Any]] = {}
        outputs: dict[str, NDArray[Any]] = {}
        for position, array in enumerate(self._buffers):
            layer, kind = position // 2, signature.KINDS[position % 2]
            inputs[signature.past(layer, kind)] = outputs[signature.present(layer, kind)] = array[start:stop]
        return inputs, outputs

    def _grow(self, capacity: int) -> None:
        g, valid = self._geometry, max(self.lengths)
        shape = (len(self.lengths), g.num_key_value_heads, capacity, g.head_dim)
        old = self._buffers or [np.empty((len(self.lengths), g.num_key_value_heads, 0, g.head_dim), g.dtype)] * (
            2 * g.num_layers
        )
        grown: list[NDArray[Any]] = []
        for array in old:
            larger = buffer(shape, g.dtype)
            larger[:, :, :valid] = array[:, :, :valid]
            grown.append(larger)
        self._buffers = grown
        self.max_length = capacity
