"""Canonical weights of one checkpoint: names resolved, shapes checked, what is missing and what nobody reads accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from edgelm.errors import CheckpointError, MissingWeights, UnusedWeights, WrongShape
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.names import NameMap, source_of
from edgelm_export.transforms import Array, Transform

_CHUNK_BYTES = 16 << 20  # rows are read, quantized and written in pieces of about this many float32 bytes


@dataclass(frozen=True)
class Weight:
    """One canonical tensor that is still on disk; `shape` as the architecture asked for it."""

    name: str
    shape: tuple[int, ...]
    tensor: LazyTensor
    transform: Transform | None = None

    def read(self) -> Array:
        """The whole tensor as float32 in canonical layout.

        Raises:
            CheckpointError: it holds NaN or infinity.
        """
        values = self.tensor.read()
        return self._checked(values if self.transform is None else self.transform(values), not_finite)

    def chunks(self, flaw: Callable[[Array], str | None]) -> Iterator[Array]:
        """The tensor's rows in order, in pieces of bounded size; a transformed tensor comes whole, for its rows move.

        Raises:
            CheckpointError: `flaw` says what is wrong with a piece.
        """
        if self.transform is not None:
            yield self._checked(self.transform(self.tensor.read()), flaw)
            return
        for start, stop in row_ranges(self.shape):
            yield self._checked(self.tensor.read(start, stop), flaw)

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

    def __init__(self, checkpoint: Checkpoint, names: NameMap, ignored: Mapping[str, str]) -> None:
        self._checkpoint = checkpoint
        self._names = names
        self._ignored = ignored
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._wrong: list[str] = []

    def get(self, name: str, shape: tuple[int, ...]) -> Weight:
        """The weight `name` of exactly `shape`; a missing or misshapen one is noted and stands in as an empty promise until `finish`."""
        source = source_of(self._names, name)
        tensor = self._checkpoint.tensors.get(source.name)
        self._used.add(source.name)
        if tensor is None:
            self._missing.append(f"{name} <- {source.name} {list(shape)}")
            tensor = LazyTensor(source.name, "float32", shape, _unreadable)
        elif tensor.shape != shape:
            self._wrong.append(
                f"{name} <- {source.name}: {list(tensor.shape)} in the file, {list(shape)} by the config"
            )
        return Weight(name, shape, tensor, source.transform)

    def finish(self) -> None:
        """Settles the accounts once every weight of every program was asked for.

        Raises:
            WrongShape, MissingWeights, UnusedWeights: each lists all its tensors; the first that applies is raised.
        """
        where = self._checkpoint.files[0]
        if self._wrong:
            raise WrongShape(
                f"{where}: tensors contradict the config (is it this checkpoint's?): {_listed(self._wrong)}"
            )
        if self._missing:
            raise MissingWeights(
                f"{where}: tensors are missing; the download may be incomplete: {_listed(self._missing)}"
            )
        unused = [name for name in self._checkpoint.tensors if name not in self._used and not self._is_ignored(name)]
        if unused:
            raise UnusedWeights(
                f"{where}: tensors that this architecture does not read, so the result would not be this model: {_listed(unused)}"
            )

    def _is_ignored(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._ignored)


def _unreadable(start: int, stop: int | None) -> Array:
    raise MissingWeights("a missing tensor was read before the accounts were settled")


def _listed(lines: list[str]) -> str:
    return "; ".join(sorted(set(lines)))
