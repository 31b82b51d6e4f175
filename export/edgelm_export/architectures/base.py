"""What an architecture definition consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelm_export.config import ModelConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap


@dataclass(frozen=True)
class Architecture:
    """One family of models.

    Attributes:
        family: the name of the definition.
        model_types: each model type it covers, with the facts its config leaves unsaid.
        names: canonical -> source module names by checkpoint format ("hf", "gguf").
        programs: what builds each program of the package.
        ignored: glob on source names -> why leaving those tensors out is right; any other leftover is an error.
    """

    family: str
    model_types: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, Callable[[ModelConfig], NameMap]]
    programs: Mapping[str, Callable[[GraphBuilder, ModelConfig], None]]
    ignored: Mapping[str, str] = field(default_factory=dict[str, str])
