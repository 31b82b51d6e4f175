"""The integers of compressed-tensors, packed (pack-quantized) or one in a byte (int-quantized, naive-quantized).

X.weight_packed      int32 [n, ceil(k * bits / 32)]       code + 2^(bits-1), column 0, 1, 2 ... from the lowest bits on
X.weight             int8 [n, k]                          the same, one byte each and signed
X.weight_scale       float [n, groups], [n, 1] or [1]     w = (code - zero point) * scale
X.weight_zero_point  packed along the rows, int32 [ceil(n * bits / 32), groups], or int8 in the shape of the scales
X.weight_shape       [n, k]
X.weight_g_idx       int32 [k]                            the group of each column, where actorder is "group"
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint.base import Array, Bytes, Codes, Grid, LazyTensor
from edgelm_export.checkpoint.files import shown
from edgelm_export.checkpoint.quantized.integers import SCALE_TYPES, order_of, unpacked
from edgelm_export.checkpoint.quantized.tensors import Part, StoredTensors
from edgelm_export.config_reader import ConfigReader

_BITS = (2, 4, 8)  # of other widths the library's releases pack differently
_STRATEGIES = ("group", "channel", "tensor")
_UNORDERED = (None, False, "weight", "static")


@dataclass(frozen=True)
class Integers:
    """How weights are stored.

    Attributes:
        bits: of a code.
        strategy: what shares a scale: a "group" of columns, a "channel", which is a row, or the whole "tensor".
        group_size: columns in a group.
        symmetric: there are no zero points.
        packed: several codes share a word.
        ordered: columns of a group are not neighbours.
    """

    bits: int
    strategy: str
    group_size: int | None
    symmetric: bool
    packed: bool
    ordered: bool

    def __str__(self) -> str:
        size = {"group": f"{self.group_size} columns", "channel": "a row", "tensor": "a tensor"}[self.strategy]
        zeros = "symmetric" if self.symmetric else "zero points"
        return f"int{self.bits} (one scale {size}, {zeros}{', act-order' if self.ordered else ''})"


def integers_setting(weights: ConfigReader, *, packed: bool) -> Integers:
    """What the settings of a group's weights say."""
    weights.get("block_structure")
    bits = weights.size("num_bits", 8)
    if bits not in (_BITS if packed else (8,)):
        weights.problem(f"num_bits {bits} is not supported (known: {', '.join(map(str, _BITS if packed else (8,)))})")
        bits = 8
    usual = "group" if weights.get("group_size") not in (None, -1) else "channel"
    strategy = weights.one_of("strategy", dict.fromkeys(_STRATEGIES), usual)
    group_size = weights.size("group_size") if strategy == "group" else None
    actorder = weights.get("actorder")
    if actorder not in (*_UNORDERED, True, "group", "dynamic"):
        weights.problem(f"actorder {actorder!r} is not supported (known: 'group', 'weight', null)")
    ordered = actorder not in _UNORDERED and strategy == "group"
    return Integers(bits, strategy, group_size, weights.flag("symmetric", True), packed, ordered)


def read_integers(tensors: StoredTensors, setting: Integers) -> None:
    """Puts codes, scales and zero points together; whatever does not fit is noted."""
    leaf = ".weight_packed" if setting.packed else ".weight"
    dtypes = ("int32",) if setting.packed else ("int8",)
    for name, codes in tensors.matrices(leaf, dtypes) if setting.packed else _bytes(tensors):
        shape = codes.shape
        n, k = shape[0], shape[1] * 32 // setting.bits if setting.packed else shape[1]
        groups = 1
        if setting.group_size is not None:
            groups = -(-k // setting.group_size)
            k = min(k, groups * setting.group_size)  # the last word of a row may have room for more
        expected = [
            Part(leaf, dtypes, shape),
            Part(".weight_scale", SCALE_TYPES, *_shapes(setting, n, groups)),
            Part(".weight_shape", ("int64", "int32"), (2,), optional=True),
            Part(".weight_g_idx", ("int32", "int64"), (k,), optional=not setting.ordered),
        ]
        if not setting.symmetric:
            packed = (-(-n * setting.bits // 32), groups)
            wide = setting.packed and setting.strategy != "tensor"
            expected.append(
                Part(".weight_zero_point", ("int32",), packed)
                if wide
                else Part(".weight_zero_point", ("int8",), *_shapes(setting, n, groups))
            )
        parts = tensors.parts(name, *expected)
        if parts is None:
            continue
        matrix = _Matrix(setting, parts, parts[leaf], (n, k))
        tensors.put(f"{name}.weight", f"int{setting.bits}", (n, k), matrix.grid(), parts.values())
    for part in (".weight_scale", ".weight_zero_point", ".weight_g_idx", ".weight_shape"):
        tensors.find_stray(part, leaf)


def _bytes(tensors: StoredTensors) -> Iterator[tuple[str, LazyTensor]]:
    """The weights that are bytes; others were left as they are."""
    for name, tensor in tensors.ending(".weight"):
        if tensor.dtype == "int8" and len(tensor.shape) == 2 and 0 not in tensor.shape:
            yield name, tensor


def _shapes(setting: Integers, n: int, groups: int) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The shape of the scales as it is usually written, and the others it may have."""
    if setting.strategy == "tensor":
        return (1,), ((), (1, 1))
    return (n, groups), (((n,),) if groups == 1 else ())


@dataclass(frozen=True)
class _Matrix:
    setting: Integers
    parts: dict[str, LazyTensor]
    codes: LazyTensor
    shape: tuple[int, int]

    def grid(self) -> Grid:
        """What is known of the integers before any is read."""
        setting = self.setting
        zero = 1 << (setting.bits - 1) if setting.symmetric else None
        order = self.order if setting.ordered else None
        scale = self.parts[".weight_scale"]
        return Grid(setting.bits, self.group_size, zero, False, scale.dtype, self.read, order)

    @property
    def group_size(self) -> int:
        """Columns that share a scale."""
        return self.setting.group_size or self.shape[1]

    def order(self) -> NDArray[np.int64]:
        """The columns group by group, int64 [k]."""
        groups = self.parts[".weight_g_idx"]
        if (groups.read() == -1).any():  # how the library says that they are in order
            return np.arange(self.shape[1])
        return order_of(groups, self.group_size)

    def read(self, start: int, stop: int) -> Codes:
        """The rows from a start to a stop, columns group by group.

        Raises:
            CheckpointError: the shape that is stored beside the codes is another.
        """
        setting, (_, k) = self.setting, self.shape
        if (stated := self.parts.get(".weight_shape")) is not None and tuple(stated.read().tolist()) != self.shape:
            raise CheckpointError(
                f"{shown(stated.name)} is {stated.read().astype(int).tolist()}, but the codes are those of {list(self.shape)}; "
                "the checkpoint is damaged, or its rows are no whole number of words, which is not read"
            )
        raw = self.codes.read_raw(start, stop)
        codes = unpacked(raw, setting.bits)[:, :k] if setting.packed else raw ^ np.uint8(128)
        if setting.ordered:
            codes = codes[:, self.order()]
        zeros = 1 << (setting.bits - 1) if setting.symmetric else self._zeros(start, stop)
        return Codes(codes, self._rows(".weight_scale", start, stop), zeros)

    def _zeros(self, start: int, stop: int) -> Bytes:
        stored = self.parts[".weight_zero_point"]
        if stored.dtype == "int8":
            return (self._rows(stored.name[stored.name.rindex(".") :], start, stop) + np.float32(128)).astype(np.uint8)
        words = stored.read_raw().view("<u4")  # [n * bits / 32, groups]
        zeros = unpacked(np.ascontiguousarray(words.T).view(np.uint8), self.setting.bits)
        return np.ascontiguousarray(zeros[:, start:stop].T)

    def _rows(self, leaf: str, start: int, stop: int) -> Array:
        """One number for each group of the rows, [rows, groups]."""
        part = self.parts[leaf]
        if self.setting.strategy == "tensor":
            return np.full((stop - start, 1), part.read().reshape(()))
        return part.read(start, stop).reshape(stop - start, -1)
