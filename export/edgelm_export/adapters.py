"""The adapters of an export: opened as the options name them, compared with the base model, written beside it, told in the manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.adapters import KeptAdapter
from edgelm.errors import CheckpointError, InvalidOption, UnsupportedConfig
from edgelm.package import sha256
from edgelm.providers import Provider
from edgelm_export.checkpoint.adapter import Adapter, open_adapter
from edgelm_export.low_rank import Adapters
from edgelm_export.model import Model
from edgelm_export.sources import Source
from edgelm_export.transforms import Array
from edgelm_export.weights import Weight

# Of an adapter in a package: it is typed, and part of a file name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def open_adapters(
    merged: str | Path | Iterable[str | Path], kept: Mapping[str, str | Path] | Iterable[str]
) -> Adapters:
    """The adapters that the options name.

    Args:
        merged: a folder, or several.
        kept: folders by name, or texts NAME=DIR.

    Raises:
        InvalidOption: a name that is none, or stands for two.
        CheckpointError: as `open_adapter`.
    """
    folders = [merged] if isinstance(merged, str | Path) else merged
    pairs = list(kept.items()) if isinstance(kept, Mapping) else [_named(text) for text in kept]
    names = [name for name, _ in pairs]
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise InvalidOption(
                f"keep_adapter {name!r}: a name is letters, digits, '_', '-' and '.', and stands for one adapter; "
                "give NAME=DIR"
            )
    return Adapters(tuple(map(open_adapter, folders)), {name: open_adapter(folder) for name, folder in pairs})


def check_base(model: Model, source: Source) -> None:
    """Refuses adapters that name another base model, or cannot be kept apart from this kind; their shapes are checked by `plan`.

    Raises:
        CheckpointError: both the source and the adapter are ids of a hub, of differently named models.
        UnsupportedConfig: adapters kept apart from what is no decoder.
    """
    adapters = model.adapters
    for adapter in adapters.all:
        ids = [name for name in (source.id, adapter.base) if name is not None and _HUB_ID.fullmatch(name)]
        own = {name.rpartition("/")[2].lower() for name in ids}
        if len(own) == 2:
            raise CheckpointError(
                f"adapter {adapter.id} was trained for {adapter.base}, not for {source.id}; export that model, or correct "
                "base_model_name_or_path in its adapter_config.json"
            )
    if adapters.kept and model.family != "decoder":
        raise UnsupportedConfig(
            f"adapter {', '.join(adapters.kept)}: only a decoder keeps adapters apart, and this is exported as an "
            f"{model.family}; merge it with --adapter"
        )


def write_adapters(
    adapters: Adapters, adapted: Mapping[str, Sequence[Weight]], provider: Provider, folder: Path
) -> dict[str, KeptAdapter]:
    """Writes what is kept apart into `folder`, a file an adapter.

    Args:
        adapters: those of the export.
        adapted: the projections that take adapters as inputs, with the weights each joins.
        provider: the dtype of its activations is theirs.
        folder: of the package.

    Returns:
        What the manifest says of each.
    """
    kept: dict[str, KeptAdapter] = {}
    dtype = np.dtype(provider.activation_dtype)
    for name, adapter in adapters.kept.items():
        file, ranks = f"adapter-{name}.data", dict[str, int]()
        with (folder / file).open("wb") as out:
            for projection, weights in adapted.items():
                factors = joined(weights, name)
                ranks[projection] = factors[1].shape[0]
                for factor in factors:
                    out.write(factor.astype(dtype).tobytes())
        kept[name] = KeptAdapter(file, adapter.id, digests_of(adapter), ranks)
    return kept


def joined(weights: Sequence[Weight], name: str) -> tuple[Array, Array]:
    """The factors [k, rank] and [rank, n] of adapter `name` for a projection of these weights, rank being the sum of theirs.

    What each adds to its own outputs stands in a block on the diagonal of the second factor.
    """
    ranks = [weight.kept[name].rank if name in weight.kept else 0 for weight in weights]
    n, k, rank = sum(weight.shape[0] for weight in weights), weights[0].shape[1], sum(ranks)
    first, second = np.zeros((k, rank), np.float32), np.zeros((rank, n), np.float32)
    row = column = 0
    for weight, own in zip(weights, ranks, strict=True):
        if own:
            a, b = weight.kept[name].read()
            first[:, row : row + own] = a.T
            second[row : row + own, column : column + weight.shape[0]] = b.T
        row, column = row + own, column + weight.shape[0]
    return first, second


def merged_entries(adapters: Adapters) -> dict[str, Any]:
    """What the manifest's `source` says of adapters that became part of the weights; nothing where there are none."""
    merged = [{"id": adapter.id, "files": digests_of(adapter)} for adapter in adapters.merged]
    return {"adapters": merged} if merged else {}


def digests_of(adapter: Adapter) -> dict[str, str]:
    """The SHA-256 of every input file."""
    return {file.name: sha256(file) for file in adapter.files}


def _named(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    return (name, folder) if equals else ("", text)
