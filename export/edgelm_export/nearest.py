"""For a checkpoint nobody defines: the registered model type its tensors resemble most, and what differs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from edgelm.errors import UnsupportedArchitecture, UnsupportedConfig
from edgelm_export import optimum
from edgelm_export.architectures import REGISTRY
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.read_config import model_type_of, read_config
from edgelm_export.wording import listed

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class _Likeness:
    model_type: str
    shared: int
    extra: tuple[str, ...]  # kinds of tensors the checkpoint has beyond the type's
    lacking: tuple[str, ...]  # kinds the type may have and the checkpoint has not


def unknown_architecture(checkpoint: Checkpoint) -> UnsupportedArchitecture:
    """The error for a model type without a definition: names the nearest type and what differs from it."""
    model_type = model_type_of(checkpoint)
    known = ", ".join(sorted(REGISTRY))
    best = max((_compare(checkpoint, name) for name in REGISTRY), key=lambda like: (like.shared, -len(like.extra)))
    if not best.shared:
        nearest = "none of them has tensors of these names"
    else:
        nearest = (
            f"the nearest is {best.model_type}, with {best.shared} kinds of tensors in common; {_differences(best)}"
        )
    return UnsupportedArchitecture(
        f"model type {model_type!r} has no definition in edgelm (known: {known}); {nearest}. "
        f"{_fallback(checkpoint)}; docs/adding-an-architecture.md shows how a definition is added"
    )


def _fallback(checkpoint: Checkpoint) -> str:
    """What Optimum could do about it."""
    if checkpoint.format != "hf":
        return "Optimum, which knows other types, reads no GGUF files: take the original checkpoint"
    if not optimum.is_installed():
        return f"Optimum may know it: {optimum.INSTALL}, and export again"
    if "auto_map" in checkpoint.config:
        return "Optimum does not know it either, and the code that the checkpoint brings along (auto_map) is never run"
    return "Optimum does not know it either"


def _compare(checkpoint: Checkpoint, model_type: str) -> _Likeness:
    architecture = REGISTRY[model_type]
    found = {_NUMBER.sub("{i}", name) for name in checkpoint.tensors}
    if checkpoint.format == "hf":  # names may go by the type
        checkpoint = replace(checkpoint, config={**checkpoint.config, "model_type": model_type})
    try:
        config = read_config(checkpoint, architecture.model_types[model_type], architecture.read_config)
        names = architecture.names[checkpoint.format](config)
    except (UnsupportedConfig, KeyError):  # a KeyError: the type is not read from this format
        return _Likeness(model_type, 0, tuple(found), ())
    wanted = {_NUMBER.sub("{i}", f"{source.name}.weight").replace("{e}", "{i}") for source in names.values()}
    extra = {name for name in found if name.removesuffix(".bias").removesuffix(".weight") + ".weight" not in wanted}
    return _Likeness(model_type, len(wanted & found), tuple(sorted(extra)), tuple(sorted(wanted - found)))


def _differences(like: _Likeness) -> str:
    parts = [
        f"{what} {listed(names, ', ', 6)}"
        for what, names in (("it does not read", like.extra), ("here is no", like.lacking))
        if names
    ]
    return "; ".join(parts) or "its tensors have the same names, so the config must differ"
