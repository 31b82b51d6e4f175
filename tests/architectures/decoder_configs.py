"""Configurations that decoders are tried with: tables in, contents of config.json files out."""

from __future__ import annotations

from collections import ChainMap

from edgelm_export.architectures import REGISTRY
from tests.architectures.decoder_tables import TABLES
from tests.architectures.random_configs import OWN, Case, random_cases, spread


def decoder_types() -> list[str]:
    """Every model type that is a decoder."""
    return sorted(name for name, kind in REGISTRY.items() if kind.decoder is not None and not kind.seq2seq)


def decoder_cases(model_type: str, least: int) -> list[Case]:
    """Configurations of a model type, the same on every call: every part of its tables is in one of them."""
    if model_type in OWN:
        return random_cases(model_type, least)
    columns = {name: column for name, column in TABLES[model_type].items() if column}
    count = max(least, *map(len, columns.values()))
    drawn = [spread(f"{model_type}.{name}", column, count) for name, column in columns.items()]
    rows = [dict(ChainMap({"model_type": model_type}, *row)) for row in zip(*drawn, strict=True)]
    return [Case(f"{model_type}-{i}", row) for i, row in enumerate(rows)]
