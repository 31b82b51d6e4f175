"""Canonical weight names and where each comes from: `layers.3.q_proj` <- `model.layers.3.self_attn.q_proj` or `blk.3.attn_q`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgelm_export.transforms import Transform

_INDEX = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor of `total` rows, which holds several of ours one below the other."""

    start: int
    stop: int
    total: int


@dataclass(frozen=True)
class Source:
    """A module of the checkpoint, and how its layout differs from ours: first the transform, then the rows.

    Attributes:
        transposed: the file has columns for our rows (GPT-2 keeps [in, out]); it is turned before anything else.
        also: other names the same tensor goes by; of tied tables a file keeps any one.
        shape: of the file's tensor, where the transform changes it.
        leaf: the name is a module's, to which `.weight` or `.bias` is added; else it is the tensor's own.
    """

    name: str
    transform: Transform | None = None
    rows: Rows | None = None
    transposed: bool = False
    also: tuple[str, ...] = ()
    leaf: bool = True
    shape: tuple[int, ...] = ()

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that a tensor of ours has in the file."""
        if self.shape:
            return self.shape
        whole = shape if self.rows is None else (self.rows.total, *shape[1:])
        return whole[::-1] if self.transposed else whole


NameMap = Mapping[str, Source]


def name_map(table: Mapping[str, str | Source]) -> NameMap:
    """A table of canonical module name -> source module name, with plain text wrapped."""
    return {name: source if isinstance(source, Source) else Source(source) for name, source in table.items()}


def per_layer(prefix: str, table: Mapping[str, str | Source], scope: str = "layers.{i}.") -> dict[str, str | Source]:
    """The same table for every layer; `prefix` and `scope`, what the canonical names begin with, hold `{i}`."""
    sources = name_map(table)
    return {scope + name: replace(source, name=prefix + source.name) for name, source in sources.items()}


def joined(
    source: str, sizes: Mapping[str, int], transform: Transform | None = None, *, transposed: bool = False
) -> dict[str, str | Source]:
    """The modules that a fused one holds one below the other: canonical name -> its rows, `sizes` in the order they stand."""
    result: dict[str, str | Source] = {}
    start, total = 0, sum(sizes.values())
    for name, size in sizes.items():
        result[name] = Source(source, transform, Rows(start, start + size, total), transposed)
        start += size
    return result


def row_of(source: str, row: int, rows: int, size: int) -> Source:
    """The vector that is one of the rows of a matrix [rows, size]."""
    return Source(source, np.ravel, Rows(row * size, (row + 1) * size, rows * size), shape=(rows, size))


def source_of(names: NameMap, canonical: str) -> Source:
    """Where `layers.3.q_proj.weight` comes from; a table may name layer 3 itself instead of all layers as `{i}`.

    A canonical name no table holds is a defect of the architecture, hence KeyError.
    """
    module, leaf = canonical.rsplit(".", 1)
    index = _INDEX.search(f"{module}.")
    template = _INDEX.sub(".{i}.", f"{module}.", count=1)[:-1] if index else module
    source = names[module] if module in names else names[template]
    spelt = [name.replace("{i}", index.group(1)) if index else name for name in (source.name, *source.also)]
    spelt = [f"{name}.{leaf}" if source.leaf else name for name in spelt]
    return replace(source, name=spelt[0], also=tuple(spelt[1:]))


def without_prefix(names: NameMap, prefix: str) -> dict[str, Source]:
    """The same table with `prefix` taken off the source names that begin with it."""
    return {
        name: replace(
            source,
            name=source.name.removeprefix(prefix),
            also=tuple(other.removeprefix(prefix) for other in source.also),
        )
        for name, source in names.items()
    }
