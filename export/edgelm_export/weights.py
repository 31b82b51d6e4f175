"""Canonical weights of one checkpoint: names resolved, shapes checked, what is missing and what nobody reads accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial

import numpy as np

from edgelm.errors import CheckpointError, MissingWeights, UnusedWeights, WrongShape
from edgelm_export.checkpoint.base import Checkpoint, Codes, Grid, LazyTensor
from edgelm_export.low_rank import LowRank, Updates, with_update
from edgelm_export.names import NameMap, Rows, Source, source_of
from edgelm_export.transforms import Array, Promise, RowOrder, Transform, cut
from edgelm_export.wording import listed

_CHUNK_BYTES = 16 << 20  # of float32, about: rows that one thread reads and works on at a time


@dataclass(frozen=True)
class Weight:
    """One canonical tensor that is still on disk; `shape` as the architecture asked for it.

    Its rows begin at row `first` of the checkpoint's tensor, or of part `index` of a stack of them, which may hold others too;
    every `step`-th row is ours. Adapters in `merged` are part of it; those in `kept`, by name, may be added to it at run time.
    """

    name: str
    shape: tuple[int, ...]
    tensor: LazyTensor
    transform: Transform | None = None
    first: int = 0
    index: int | None = None
    step: int = 1
    merged: tuple[LowRank, ...] = ()
    kept: Mapping[str, LowRank] = field(default_factory=dict[str, LowRank])

    def read(self) -> Array:
        """The whole tensor as float32 in canonical layout.

        Raises:
            CheckpointError: it holds NaN or infinity.
        """
        return self._piece(0, math.prod(self.shape[:1]), self._updates(), not_finite)

    def chunks(self, flaw: Callable[[Array], str | None]) -> Iterator[Array]:
        """The tensor's rows in order, in pieces of bounded size; one of a stack comes whole, and a transformed one, for its rows move.

        Raises:
            CheckpointError: `flaw` says what is wrong with a piece.
        """
        updates = self._updates()
        for start, stop in [(0, self.shape[0])] if self._whole else row_ranges(self.shape):
            yield self._piece(start, stop, updates, flaw)

    def promised(self, flaw: Callable[[Array], str | None], rows: int) -> Iterator[Promise]:
        """What reads the same, so many rows at a time, from any thread; what comes whole is read before."""
        updates, end = self._updates(), self.shape[0]
        if self._whole:
            yield from cut(self._piece(0, end, updates, flaw), rows)
            return
        for start in range(0, end, rows):
            yield partial(self._piece, start, min(start + rows, end), updates, flaw)

    @property
    def largest_piece(self) -> int:
        """Bytes of the largest piece of `chunks`, as float32."""
        nbytes = 4 * math.prod(self.shape)
        return nbytes if self._whole else min(nbytes, max(_CHUNK_BYTES, 4 * math.prod(self.shape[1:])))

    @property
    def _whole(self) -> bool:
        return self.transform is not None or self.index is not None

    def _updates(self) -> list[tuple[Array, Array]]:
        return [update.read() for update in self.merged]

    def _piece(
        self, start: int, stop: int, updates: Sequence[tuple[Array, Array]], flaw: Callable[[Array], str | None]
    ) -> Array:
        values = self._rows(start, stop)
        for a, b in updates:
            values = with_update(values, a, b[start:stop])
        return self._checked(values, flaw)

    @property
    def as_stored(self) -> bool:
        """Whether the rows are the tensor's own, though perhaps in another order."""
        moved = self.transform is None or isinstance(self.transform, RowOrder)
        return moved and self.index is None and not self.merged

    @property
    def grid(self) -> Grid | None:
        """How the rows are stored as integers, if they are."""
        return self.tensor.grid if self.as_stored else None

    def codes(self) -> Iterator[Codes]:
        """The rows in order as the integers of the grid, in pieces as `chunks` cuts them.

        Raises:
            CheckpointError: a scale or an offset is NaN or infinite.
        """
        transform, grid = self.transform, self.grid
        if grid is None:
            raise ValueError(f"{self.name} is not stored as integers")
        for start, stop in [(0, self.shape[0])] if transform is not None else row_ranges(self.shape):
            rows = self._span(start, stop)
            if isinstance(transform, RowOrder):
                part = grid.read(0, self.tensor.shape[0]).each(transform).each(lambda part, rows=rows: part[rows])
            else:
                part = grid.read(rows.start, rows.stop).each(lambda part: part[:: self.step])
            for values in (part.scales, part.offsets):
                if values is not None:
                    self._checked(values, not_finite)
            yield part

    def _span(self, start: int, stop: int) -> slice:
        """Rows of ours as a slice of the tensor's."""
        return slice(self.first + start * self.step, self.first + (stop - 1) * self.step + 1, self.step)

    def _rows(self, start: int, stop: int) -> Array:
        rows = self._span(start, stop)
        if self.transform is None and self.index is None:
            return self.tensor.read(rows.start, rows.stop)[:: self.step]
        values = self.tensor.read() if self.index is None else self.tensor.read(self.index, self.index + 1)[0]
        return (values if self.transform is None else self.transform(values))[rows]

    def _checked(self, values: Array, flaw: Callable[[Array], str | None]) -> Array:
        if (found := flaw(values)) is not None:
            raise CheckpointError(
                f"{self.name} <- {self.tensor.name} {found}; the checkpoint is damaged, was saved mid-divergence, "
                "or needs a format of more range (--precision fp32 keeps any)"
            )
        return values


def row_ranges(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Start and stop of pieces of rows whose float32 values take a bounded size."""
    step = max(1, _CHUNK_BYTES // (4 * max(1, math.prod(shape[1:]))))
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def not_finite(values: Array) -> str | None:
    """What is wrong with values that hold NaN or infinity."""
    return None if np.isfinite(values).all() else "holds NaN or infinity"


class Weights:
    """Looks tensors up by canonical name and keeps the accounts. Problems are collected, so that one error can list them all."""

    def __init__(
        self, checkpoint: Checkpoint, names: NameMap, ignored: Mapping[str, str], updates: Updates | None = None
    ) -> None:
        self.updates = updates or Updates()
        self.largest_piece = 0  # bytes, of all weights that were asked for
        self._checkpoint = checkpoint
        self._names = names
        self._ignored = ignored
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._wrong: list[str] = []

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the weight `name`; asking does not count as reading it."""
        return self._find(name)[2] is not None

    def get(self, name: str, shape: tuple[int, ...]) -> Weight:
        """The weight `name` of exactly `shape`; a missing or misshapen one is noted and stands in as an empty promise until `finish`."""
        weight = self._found(name, shape)
        self.largest_piece = max(self.largest_piece, weight.largest_piece)
        return weight

    def _found(self, name: str, shape: tuple[int, ...]) -> Weight:
        source, spelling, tensor = self._find(name)
        self._used |= {spelling, *source.also}
        stored = source.stored_shape(shape)
        if tensor is None:
            self._missing.append(f"{name} <- {source.name} {list(stored)}")
            tensor = LazyTensor(source.name, "float32", stored, _unreadable)
        elif tensor.shape != stored:
            self._wrong.append(
                f"{name} <- {source.name}: {list(tensor.shape)} in the file, {list(stored)} by the config"
            )
        if source.flat:
            tensor = _as_row(tensor)
        merged, kept = self.updates.merged(name, shape), self.updates.kept(name, shape)
        if source.turned:
            return Weight(name, shape, _part(tensor, source), _transposed(None), merged=merged, kept=kept)
        transform = _transposed(source.transform) if source.transposed else source.transform
        rows = source.rows or Rows(0, 0, 0)
        return Weight(name, shape, tensor, transform, rows.start, source.index, rows.step, merged, kept)

    def finish(self) -> None:
        """Settles the accounts once every weight of every program was asked for.

        Raises:
            WrongShape, MissingWeights, UnusedWeights: each lists all its tensors; the first that applies is raised.
            UnsupportedConfig: an adapter that cannot be kept apart.
        """
        where = self._checkpoint.files[0]
        if self._wrong:
            raise WrongShape(f"{where}: tensors contradict the config (is it this checkpoint's?): {_all(self._wrong)}")
        if self._missing:
            raise MissingWeights(f"{where}: tensors are missing; the download may be incomplete: {_all(self._missing)}")
        unused = [name for name in self._checkpoint.tensors if name not in self._used and not self._is_ignored(name)]
        if unused:
            raise UnusedWeights(
                f"{where}: tensors that this architecture does not read, so the result would not be this model: {_all(unused)}"
            )
        self.updates.finish()

    def _find(self, name: str) -> tuple[Source, str, LazyTensor | None]:
        """Where a weight comes from, how the checkpoint spells that, and the tensor, if it is there."""
        source, tensors = source_of(self._names, name), self._checkpoint.tensors
        spellings = [spelt for one in (source.name, *source.also) for spelt in (one, _older_spelling(one))]
        spelling = next((spelt for spelt in spellings if spelt in tensors), source.name)
        return source, spelling, tensors.get(spelling)

    def _is_ignored(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._ignored)


def _as_row(tensor: LazyTensor) -> LazyTensor:
    """[columns] as [1, columns]."""

    def rows(start: int, stop: int) -> Array:
        return tensor.read()[None][start:stop]

    return replace(tensor, shape=(1, *tensor.shape), rows=rows, raw=None, grid=None)


def _transposed(transform: Transform | None) -> Transform:
    """A transform, or none, behind one that makes rows of a tensor's columns."""
    return lambda x: np.ascontiguousarray(x.T) if transform is None else transform(np.ascontiguousarray(x.T))


def _part(tensor: LazyTensor, source: Source) -> LazyTensor:
    """The rows of a tensor that the source names, as a tensor of their own."""
    if source.rows is None:
        return tensor
    first, count = source.rows.start, source.rows.stop - source.rows.start
    shape = (count, *tensor.shape[1:])

    def rows(start: int, stop: int) -> Array:
        return tensor.read(first + start, first + stop)

    return replace(tensor, shape=shape, rows=rows, raw=None, grid=None)


def _older_spelling(name: str) -> str:
    """BERT's first checkpoints keep the names TensorFlow gave to a norm's weight and bias."""
    return name.removesuffix("weight") + "gamma" if name.endswith(".weight") else name.removesuffix("bias") + "beta"


def _unreadable(start: int, stop: int | None) -> Array:
    raise MissingWeights("a missing tensor was read before the accounts were settled")


def _all(lines: list[str]) -> str:
    return listed(sorted(set(lines)), most=None)
