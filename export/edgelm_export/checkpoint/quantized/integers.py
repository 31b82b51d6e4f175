"""What the readers of integer formats share: dense bit packing, and weights whose codes, zero points and scales lie transposed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint.base import Bytes, Codes, Grid, LazyTensor
from edgelm_export.checkpoint.files import shown
from edgelm_export.config_reader import ConfigReader

SCALE_TYPES = ("float16", "bfloat16", "float32")
WORD_TYPES = ("int32", "uint32")

_PIECE_BYTES = 1 << 20  # of a tensor whose columns are wanted, read at once


def unpacked(data: Bytes, bits: int) -> Bytes:
    """Codes [..., count] out of bytes [..., count * bits / 8]: one after the other, the first in the lowest bits.

    Eight codes take `bits` bytes, so no code is looked for across more than one of such pieces. The last is filled up with zeros.
    """
    missing = -data.shape[-1] % bits
    data = np.pad(data, [(0, 0)] * (data.ndim - 1) + [(0, missing)]) if missing else data
    groups = data.reshape(*data.shape[:-1], -1, bits)
    words = np.zeros((*groups.shape[:-1], 8), np.uint8)
    words[..., :bits] = groups
    whole = words.view("<u8")[..., 0]
    codes = np.empty(words.shape, np.uint8)
    for i in range(8):
        codes[..., i] = whole >> np.uint64(i * bits) & np.uint64((1 << bits) - 1)
    return codes.reshape(*data.shape[:-1], -1)


def columns(tensor: LazyTensor, dtype: DTypeLike, start: int, stop: int) -> NDArray[Any]:
    """The columns `start:stop` of a matrix, its values as they are stored; a piece of its rows is in memory at a time."""
    rows, stored = tensor.shape[0], np.dtype(dtype)
    result = np.empty((rows, stop - start), stored)
    step = max(1, _PIECE_BYTES // max(1, tensor.shape[1] * stored.itemsize))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        result[first:last] = tensor.read_raw(first, last).view(stored)[:, start:stop]
    return result


def read_group_size(config: ConfigReader, key: str = "group_size") -> int | None:
    """How many neighbouring columns share a scale; None for -1 or nothing, which mean the whole row."""
    return None if config.get(key) in (None, -1) else config.size(key)


def order_of(groups: LazyTensor, group_size: int) -> NDArray[np.int64]:
    """The columns group by group, int64 [k], by the number of each column's group.

    Raises:
        CheckpointError: a group has more or fewer columns than the others.
    """
    numbers = groups.read().astype(np.int64)
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], np.arange(len(numbers)) // group_size):
        raise CheckpointError(
            f"{shown(groups.name)} does not put {group_size} columns in each group; the checkpoint is damaged, or was made with "
            "another group_size than its config says"
        )
    return order


@dataclass(frozen=True)
class Transposed:
    """A weight [n, k] whose parts are stored turned: codes by column, zero points and scales [groups, n].

    Attributes:
        name: of the weight.
        bits: of a code.
        group_size: columns that share a scale.
        zero: the zero point of all groups, if the config promises one.
        codes: those of the rows from a start to a stop, [rows, k].
        zeros: the zero points of the same rows, [groups, rows].
        scales: [groups, n].
        groups: the number of each column's group, if the file says it.
        ordered: whether the config says that they are not in order.
    """

    name: str
    bits: int
    group_size: int
    zero: int | None
    codes: Callable[[int, int], Bytes]
    zeros: Callable[[int, int], Bytes]
    scales: LazyTensor
    groups: LazyTensor | None = None
    ordered: bool = False

    def grid(self) -> Grid:
        """What is known of the integers before any is read."""
        order = self.order if self.ordered else None
        return Grid(self.bits, self.group_size, self.zero, False, self.scales.dtype, self.read, order)

    def read(self, start: int, stop: int) -> Codes:
        """The rows from a start to a stop, columns group by group.

        Raises:
            CheckpointError: what is stored contradicts the config.
        """
        codes, zeros = self.codes(start, stop), np.ascontiguousarray(self.zeros(start, stop).T)
        if self.zero is not None and (zeros != self.zero).any():
            raise CheckpointError(
                f"{shown(self.name)} has zero points, though by the config it is symmetric; set 'sym' to false there if it is not"
            )
        if self.groups is not None:
            codes = codes[:, self.order()]
        scales = np.ascontiguousarray(self.scales.read()[:, start:stop].T)
        return Codes(codes, scales, zeros if self.zero is None else self.zero)

    def order(self) -> NDArray[np.int64]:
        """The columns group by group, int64 [k].

        Raises:
            CheckpointError: the file's groups are not what the config says.
        """
        if self.groups is None:
            raise ValueError(f"{self.name} has no groups of its own")
        order = order_of(self.groups, self.group_size)
        if not self.ordered and not np.array_equal(order, np.arange(len(order))):
            raise CheckpointError(
                f"{shown(self.groups.name)} puts the columns in an order of its own, though by the config it has none; "
                "set 'desc_act' to true there if it has"
            )
        return order
