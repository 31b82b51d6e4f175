"""The registry: model type -> architecture."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.llama import LLAMA

ARCHITECTURES = (LLAMA,)
REGISTRY: Mapping[str, Architecture] = {
    model_type: architecture for architecture in ARCHITECTURES for model_type in architecture.model_types
}
