"""Canonical weight names and where each comes from: `layers.3.q_proj` <- `model.layers.3.self_attn.q_proj` or `blk.3.attn_q`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgelm_export.transforms import Transform

_INDEX = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Source:
    """A module of the checkpoint, and how its layout differs from ours."""

    name: str
    transform: Transform | None = None


NameMap = Mapping[str, Source]


def name_map(table: Mapping[str, str | Source]) -> NameMap:
    """A table of canonical module name -> source module name, with plain text wrapped."""
    return {name: source if isinstance(source, Source) else Source(source) for name, source in table.items()}


def per_layer(prefix: str, table: Mapping[str, str | Source]) -> dict[str, str | Source]:
    """The same table for every layer; `prefix` holds `{i}`."""
    result: dict[str, str | Source] = {}
    for name, source in table.items():
        full = Source(prefix + source.name, source.transform) if isinstance(source, Source) else prefix + source
        result[f"layers.{{i}}.{name}"] = full
    return result


def source_of(names: NameMap, canonical: str) -> Source:
    """Where `layers.3.q_proj.weight` comes from. A canonical name no table holds is a defect of the architecture, hence KeyError."""
    module, leaf = canonical.rsplit(".", 1)
    index = _INDEX.search(f"{module}.")
    template = _INDEX.sub(".{i}.", f"{module}.", count=1)[:-1] if index else module
    source = names[template]
    return Source(f"{source.name.replace('{i}', index.group(1)) if index else source.name}.{leaf}", source.transform)
