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
    """Some rows of a tensor of `total` rows, which holds several of ours one below the other, or every `step`-th."""

    start: int
    stop: int
    total: int
    step: int = 1


@dataclass(frozen=True)
class Source:
    """A module of the checkpoint, and how its layout differs from ours: first the transform, then the rows.

    Attributes:
        turned: our columns are the rows there: [rows, n] in the file is [n, rows] of ours.
        transposed: the file has columns for our rows (GPT-2 keeps [in, out]); it is turned before anything else.
        also: other names the same tensor goes by; of tied tables a file keeps any one.
        shape: of the file's tensor, where the transform changes it.
        leaf: the name is a module's, to which `.weight` or `.bias` is added; else it is the tensor's own.
        flat: ours has a single row, and the file leaves out its axis.
        stacked: the tensor holds so many of ours along an axis before their own; the name's second index says which.
        index: which one, once the name is known.
    """

    name: str
    transform: Transform | None = None
    rows: Rows | None = None
    turned: bool = False
    transposed: bool = False
    also: tuple[str, ...] = ()
    leaf: bool = True
    shape: tuple[int, ...] = ()
    flat: bool = False
    stacked: int = 0
    index: int | None = None

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that a tensor of ours has in the file."""
        if self.shape:
            return self.shape
        shape = shape[::-1] if self.turned else shape
        whole = shape if self.rows is None else (self.rows.total, *shape[1:])
        whole = whole[::-1] if self.transposed else whole
        whole = whole[1:] if self.flat else whole
        return (self.stacked, *whole) if self.stacked else whole


NameMap = Mapping[str, Source]


def name_map(table: Mapping[str, str | Source]) -> NameMap:
    """A table of canonical module name -> source module name, with plain text wrapped."""
    return {name: source if isinstance(source, Source) else Source(source) for name, source in table.items()}


def per_layer(prefix: str, table: Mapping[str, str | Source], scope: str = "layers.{i}.") -> dict[str, str | Source]:
    """The same table for every layer; `prefix` and `scope`, what the canonical names begin with, hold `{i}`."""
    sources = name_map(table)
    return {scope + name: replace(source, name=prefix + source.name) for name, source in sources.items()}


def joined(
    source: str,
    sizes: Mapping[str, int],
    transform: Transform | None = None,
    *,
    transposed: bool = False,
    stacked: int = 0,
) -> dict[str, str | Source]:
    """The modules that a fused one holds one below the other: canonical name -> its rows, `sizes` in the order they stand."""
    result: dict[str, str | Source] = {}
    start, total = 0, sum(sizes.values())
    for name, size in sizes.items():
        result[name] = Source(
            source, transform, Rows(start, start + size, total), transposed=transposed, stacked=stacked
        )
        start += size
    return result


def row_of(source: str, row: int, rows: int, size: int) -> Source:
    """The vector that is one of the rows of a matrix [rows, size]."""
    return Source(source, np.ravel, Rows(row * size, (row + 1) * size, rows * size), shape=(rows, size))


def source_of(names: NameMap, canonical: str) -> Source:
    """Where `layers.3.experts.7.up_proj.weight` comes from; tables write `{i}` for the first index and `{e}` for the second.

    A table may name layer 3 itself instead of all layers, and a weight or bias itself instead of its module. A canonical name
    no table holds is a defect of the architecture, hence KeyError.
    """
    module, leaf = canonical.rsplit(".", 1)
    templates, marks = [module], dict(zip(("{i}", "{e}"), _INDEX.findall(f"{module}."), strict=False))
    for mark in marks:
        templates.append(_INDEX.sub(f".{mark}.", f"{templates[-1]}.", count=1)[:-1])
    known = [name for template in templates for name in (f"{template}.{leaf}", template) if name in names]
    source = names[known[0] if known else templates[-1]]
    spelt: list[str] = []
    for name in (source.name, *source.also):
        for mark, index in marks.items():
            name = name.replace(mark, index)
        spelt.append(f"{name}.{leaf}" if source.leaf else name)
    index = int(marks.get("{e}", 0)) if source.stacked else None
    return replace(source, name=spelt[0], also=tuple(spelt[1:]), index=index)


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
