"""A checkpoint understood: its config, its architecture, and what must hold before it is exported."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgelm.errors import UnsupportedConfig
from edgelm_export.architectures import REGISTRY
from edgelm_export.architectures.base import Architecture
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.config import ModelConfig
from edgelm_export.names import NameMap, source_of
from edgelm_export.nearest import unknown_architecture
from edgelm_export.read_config import model_type_of, read_config
from edgelm_export.weights import row_ranges


@dataclass(frozen=True)
class Model:
    """What an assembly needs besides a recipe and a place to write."""

    checkpoint: Checkpoint
    config: ModelConfig
    architecture: Architecture

    @property
    def names(self) -> NameMap:
        """Canonical -> source module names of this checkpoint."""
        return self.architecture.names[self.checkpoint.format](self.config)

    @property
    def parameters(self) -> int:
        """Values in the checkpoint's tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.checkpoint.tensors.values())


def understand(checkpoint: Checkpoint, context_length: int | None = None) -> Model:
    """Config and architecture of a checkpoint, from headers alone.

    Raises:
        UnsupportedArchitecture: nobody defines it; the message names the nearest type and what differs.
        UnsupportedConfig: the type is known, its config asks for something that is not.
    """
    model_type = model_type_of(checkpoint)
    if model_type not in REGISTRY:
        raise unknown_architecture(checkpoint)
    architecture = REGISTRY[model_type]
    facts = architecture.model_types[model_type]
    return Model(checkpoint, read_config(checkpoint, facts, context_length), architecture)


def check_tied_head(model: Model) -> None:
    """A checkpoint that ties its head and stores one must store the token table, or nobody knows which head was trained.

    Raises:
        UnsupportedConfig: the two differ.
    """
    names = model.names
    head = model.checkpoint.tensors.get(source_of(names, "lm_head.weight").name)
    table = model.checkpoint.tensors.get(source_of(names, "embed_tokens.weight").name)
    if not model.config.tie_word_embeddings or head is None or table is None:
        return
    same = head.shape == table.shape and all(
        np.array_equal(head.read(start, stop), table.read(start, stop)) for start, stop in row_ranges(table.shape)
    )
    if not same:
        raise UnsupportedConfig(
            f"tie_word_embeddings is true, but {head.name} differs from {table.name} (transformers 4 would use the one, 5 the other); "
            "set tie_word_embeddings in config.json to how the model was trained"
        )
