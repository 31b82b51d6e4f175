"""A checkpoint understood: its config, its architecture, what it is exported for, and what must hold before it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from edgelm import signature, tasks
from edgelm.errors import UnsupportedArchitecture, UnsupportedConfig
from edgelm_export.architectures import REGISTRY
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.cross import cross_outputs
from edgelm_export.blocks.encoder import encoder_inputs
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.graph import GraphBuilder
from edgelm_export.low_rank import Adapters
from edgelm_export.names import NameMap, Source, source_of, without_prefix
from edgelm_export.nearest import unknown_architecture
from edgelm_export.read_config import model_type_of, read_config
from edgelm_export.task import Task
from edgelm_export.tasks import choose_task
from edgelm_export.weights import row_ranges


@dataclass(frozen=True)
class Model:
    """What an assembly needs besides a recipe and a place to write."""

    checkpoint: Checkpoint
    config: Any  # the ModelConfig of the architecture's own kind
    architecture: Architecture
    task: Task
    adapters: Adapters = Adapters()  # noqa: RUF009 - it is frozen

    @property
    def names(self) -> NameMap:
        """Canonical -> source module names of this checkpoint, heads and modules included."""
        names = self._spelt_as(self.checkpoint.format, self.checkpoint.tensors)
        return {**names, **{dense.name: Source(dense.source) for dense in self.task.dense}}

    @property
    def module_names(self) -> NameMap:
        """The same in the words of the model's own code, which adapters use whatever format the checkpoint has."""
        return {**self.names, **self._spelt_as("hf", [name for one in self.adapters.all for name in one.pairs])}

    def _spelt_as(self, form: str, used: Iterable[str]) -> NameMap:
        """The names of a checkpoint format; whether they begin with the architecture's prefix shows in those that are in use."""
        names, prefix = {**self.architecture.names[form](self.config), **self.head_names}, self.architecture.prefix
        prefixed = not prefix or any(name.startswith(prefix) for name in used)
        return names if prefixed else without_prefix(names, prefix)

    @property
    def head_names(self) -> NameMap:
        """Those names that another task's head may go by."""
        return self.architecture.head_names(self.config) if self.family == "encoder" else {}

    @property
    def family(self) -> str:
        """What the package will be: "decoder", "encoder" or "encoder-decoder"."""
        return {tasks.TEXT_GENERATION: "decoder", tasks.TEXT_TO_TEXT: "encoder-decoder"}.get(self.task.name, "encoder")

    @property
    def programs(self) -> Mapping[str, Callable[[GraphBuilder], None]]:
        """What builds each program of the package."""
        programs: dict[str, Callable[[GraphBuilder], None]] = {}
        if self.family != "decoder":
            programs["encoder"] = partial(_build_encoder, model=self)
        if self.family != "encoder":
            programs["decoder"] = partial(_build_decoder, model=self)
        return programs

    @property
    def target_vocab_size(self) -> int:
        """Width of the logits over tokens; an encoder-decoder may write others than it reads."""
        return self.config.decoder.vocab_size if self.family == "encoder-decoder" else self.config.vocab_size

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should hear before the export."""
        return (*self.checkpoint.notes, *self.config.notes, *self.task.notes)


def understand(
    checkpoint: Checkpoint, context_length: int | None = None, task: str | None = None, pooling: str | None = None
) -> Model:
    """Config, architecture and task of a checkpoint, from headers alone.

    Raises:
        UnsupportedArchitecture: nobody defines it; the message names the nearest type and what differs.
        UnsupportedConfig: the type is known, its config or the task asks for something that is not.
        InvalidOption: an unknown task or pooling.
    """
    model_type = model_type_of(checkpoint)
    if model_type not in REGISTRY:
        raise unknown_architecture(checkpoint)
    architecture = REGISTRY[model_type]
    if checkpoint.format not in architecture.names:
        raise UnsupportedArchitecture(
            f"{checkpoint.files[0]}: {model_type} is read from safetensors only; take the original checkpoint"
        )
    chosen = choose_task(checkpoint, architecture, task, pooling)
    config: Any = read_config(
        checkpoint, architecture.model_types[model_type], architecture.read_config, context_length
    )
    if chosen.name == tasks.TEXT_GENERATION and not config.causal:
        raise UnsupportedConfig(
            f"{checkpoint.files[0]}: is_causal is false, so the model reads whole texts and writes none; "
            f"export it with --task {tasks.EMBEDDING}"
        )
    if chosen.max_seq_length is not None and context_length is None:
        config = replace(config, context_length=min(config.context_length, chosen.max_seq_length))
    return Model(with_modules(checkpoint, chosen), config, architecture, chosen)


def with_modules(checkpoint: Checkpoint, task: Task) -> Checkpoint:
    """The checkpoint with what only its task reads."""
    return replace(checkpoint, tensors={**checkpoint.tensors, **task.tensors}, files=(*checkpoint.files, *task.files))


def check_tied_head(model: Model) -> None:
    """A checkpoint that ties its head and stores one must store the token table, or nobody knows which head was trained.

    Raises:
        UnsupportedConfig: the two differ.
    """
    names = model.names
    if not model.config.tie_word_embeddings or "lm_head" not in names or model.task.name not in _WITH_TOKEN_LOGITS:
        return
    head = model.checkpoint.tensors.get(source_of(names, "lm_head.weight").name)
    table = model.checkpoint.tensors.get(source_of(names, "embed_tokens.weight").name)
    if head is None or table is None:
        return
    same = head.shape == table.shape and all(
        np.array_equal(head.read(start, stop), table.read(start, stop)) for start, stop in row_ranges(table.shape)
    )
    if not same:
        raise UnsupportedConfig(
            f"tie_word_embeddings is true, but {head.name} differs from {table.name} (transformers 4 would use the one, 5 the other); "
            "set tie_word_embeddings in config.json to how the model was trained"
        )


_WITH_TOKEN_LOGITS = (tasks.TEXT_GENERATION, tasks.TEXT_TO_TEXT, tasks.FILL_MASK)


def _build_decoder(g: GraphBuilder, model: Model) -> None:
    if model.architecture.decoder is None:
        raise TypeError(f"{model.architecture.family} defines no decoder")
    model.architecture.decoder(g, model.config)


def _build_encoder(g: GraphBuilder, model: Model) -> None:
    """Hidden states, and what the task's head makes of them."""
    c, architecture, task = model.config, model.architecture, model.task
    if architecture.encoder is None:
        raise TypeError(f"{architecture.family} defines no encoder")
    tokens = encoder_inputs(g, c, task)
    x = architecture.encoder(g, c, tokens)
    if model.family == "encoder-decoder":
        g.output(signature.source_port(c.hidden_size), x)
        cross_outputs(g, x, c)
        return
    g.output(signature.hidden_port(c.hidden_size), x)
    head = tasks.SEQUENCE_CLASSIFICATION if task.name == tasks.RERANKING else task.name
    architecture.heads[head](g, x, c, tokens, task)
