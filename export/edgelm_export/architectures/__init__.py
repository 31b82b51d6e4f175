"""The registry: model type -> architecture."""

from __future__ import annotations

import difflib

from edgelm.errors import UnsupportedArchitecture
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.llama import LLAMA

ARCHITECTURES = (LLAMA,)
REGISTRY = {model_type: architecture for architecture in ARCHITECTURES for model_type in architecture.model_types}


def find_architecture(model_type: str) -> Architecture:
    """The architecture registered for a model type.

    Raises:
        UnsupportedArchitecture: none is; names the nearest known types.
    """
    if model_type in REGISTRY:
        return REGISTRY[model_type]
    near = difflib.get_close_matches(model_type, REGISTRY, n=2, cutoff=0.4)
    hint = f" The nearest by name: {', '.join(near)}." if near else ""
    raise UnsupportedArchitecture(
        f"model type {model_type!r} has no definition in edgelm (known: {', '.join(sorted(REGISTRY))}).{hint} "
        "docs/adding-an-architecture.md shows how one is added"
    )
