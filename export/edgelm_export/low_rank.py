"""What adapters add to canonical weights: looked up as the weights are, by name and shape, with accounts of what nothing reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgelm.errors import CheckpointError, EdgeLMError, UnsupportedConfig, UnusedWeights, WrongShape
from edgelm_export.checkpoint.adapter import Adapter
from edgelm_export.names import NameMap, Source, source_of
from edgelm_export.transforms import Array
from edgelm_export.wording import listed

if TYPE_CHECKING:
    from edgelm_export.weights import Weight


_CACHED_VALUES = 1 << 16  # of a piece that stays in a processor's cache while it is added to


@dataclass(frozen=True)
class Adapters:
    """The adapters of an export: some become part of the weights, others stay apart and are chosen by their names at run time."""

    merged: tuple[Adapter, ...] = ()
    kept: Mapping[str, Adapter] = field(default_factory=dict[str, Adapter])

    @property
    def all(self) -> tuple[Adapter, ...]:
        """Both kinds."""
        return (*self.merged, *self.kept.values())


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to a canonical weight [n, k]: b @ a, from a module that `source` says the weight is in."""

    adapter: Adapter
    module: str
    source: Source

    @property
    def rank(self) -> int:
        """Columns of b, rows of a."""
        return self.adapter.pairs[self.module].a.shape[0]

    def read(self) -> tuple[Array, Array]:
        """a [rank, k] and b [n, rank]; the scale is in b.

        Raises:
            CheckpointError: one holds NaN or infinity.
        """
        pair, source = self.adapter.pairs[self.module], self.source
        a, b = pair.a.read(), pair.b.read() * np.float32(pair.scale)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise CheckpointError(
                f"adapter {self.adapter.id}: {self.module} holds NaN or infinity; it is damaged, save it again"
            )
        if source.transform is not None:
            b = source.transform(b)
        if source.rows is not None:
            b = b[source.rows.start : source.rows.stop : source.rows.step]
        return (b.T, a.T) if source.turned else (a, b)


class Updates:
    """The low-rank updates of one assembly. Problems are collected, so that one error can list them all.

    Attributes:
        projections: those that take adapters as inputs of the graph, each with the weights it joins.
    """

    def __init__(self, adapters: Adapters | None = None, names: NameMap | None = None) -> None:
        """Takes the adapters, and canonical -> module names as the base model's own code has them."""
        self.projections: dict[str, tuple[Weight, ...]] = {}
        self._adapters = adapters or Adapters()
        self._names = names or {}
        self._used: set[tuple[Path, str]] = set()  # adapter and module
        self._wrong: dict[Path, list[str]] = {}

    def merged(self, name: str, shape: tuple[int, ...]) -> tuple[LowRank, ...]:
        """What the stored weight `name` contains besides the checkpoint's tensor."""
        found = [update for one in self._adapters.merged if (update := self._find(one, name, shape)) is not None]
        self._used |= {(update.adapter.folder, update.module) for update in found}
        return tuple(found)

    def kept(self, name: str, shape: tuple[int, ...]) -> dict[str, LowRank]:
        """What may be added to it at run time, by the name of the adapter."""
        found = {key: self._find(one, name, shape) for key, one in self._adapters.kept.items()}
        return {key: update for key, update in found.items() if update is not None}

    def apply(self, projection: str, weights: Sequence[Weight]) -> None:
        """Notes that a projection of these weights takes adapters as inputs."""
        self.projections[projection] = tuple(weights)
        self._used |= {(update.adapter.folder, update.module) for weight in weights for update in weight.kept.values()}

    def finish(self) -> None:
        """Settles the accounts once every weight was asked for.

        Raises:
            WrongShape, UnusedWeights, UnsupportedConfig: an adapter does not fit the model; each lists all its modules.
        """
        for adapter in self._adapters.all:
            if wrong := self._wrong.get(adapter.folder):
                meant = "" if adapter.base is None else f", {adapter.base} by its config"
                raise WrongShape(f"adapter {adapter.id} is for another base model{meant}: {listed(sorted(set(wrong)))}")
        for adapter in self._adapters.merged:
            self._require_used(adapter, UnusedWeights, "this model does not have, so it is for another base model")
        for adapter in self._adapters.kept.values():
            why = "are no projections of this model's decoder, so it cannot be kept apart; merge it, if it is for this model"
            self._require_used(adapter, UnsupportedConfig, why)

    def _require_used(self, adapter: Adapter, error: type[EdgeLMError], why: str) -> None:
        unused = [module for module in adapter.pairs if (adapter.folder, module) not in self._used]
        if unused:
            raise error(f"adapter {adapter.id} changes modules that {why}: {listed(sorted(set(unused)))}")

    def _find(self, adapter: Adapter, name: str, shape: tuple[int, ...]) -> LowRank | None:
        if len(shape) != 2 or not name.endswith(".weight"):
            return None
        source = source_of(self._names, name)
        spellings = [spelt.removesuffix(".weight") for spelt in (source.name, *source.also)]
        module = next((spelt for spelt in spellings if spelt in adapter.pairs), None)
        if module is None:
            return None
        pair = adapter.pairs[module]
        stored = source.stored_shape(shape)[:: -1 if source.transposed else 1]
        if (pair.b.shape[0], pair.a.shape[1]) != stored:
            changed = [pair.b.shape[0], pair.a.shape[1]]
            self._wrong.setdefault(adapter.folder, []).append(
                f"{module} changes {changed}, the model has {list(stored)}"
            )
            return None
        return LowRank(adapter, module, source)


def with_update(values: Array, a: Array, b: Array) -> Array:
    """values [n, k] + b [n, rank] @ a [rank, k], the same bits on any machine and whatever rows come together.

    What a matrix product gives depends on the processor and the number of threads, hence sums of one outer product after another.
    """
    result = np.array(values)
    rows = max(1, _CACHED_VALUES // max(1, result.shape[1]))
    for start in range(0, len(result), rows):
        part = result[start : start + rows]
        for column, row in zip(b[start : start + rows].T, a, strict=True):
            part += column[:, None] * row
    return result
