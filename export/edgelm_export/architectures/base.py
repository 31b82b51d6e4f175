"""What an architecture definition consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgelm_export.blocks.encoder import Head, Tokens
from edgelm_export.config_reader import ConfigReader
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap


@dataclass(frozen=True)
class Architecture:
    """One family of models. Functions take its own kind of ModelConfig.

    Attributes:
        family: the name of the definition.
        model_types: each model type it covers, with the facts its config leaves unsaid.
        read_config: raw keys -> config.
        names: canonical -> source module names by checkpoint format ("hf", "gguf").
        decoder: builds the program of a decoder.
        encoder: token ids in, hidden states out.
        heads: what stands on an encoder's hidden states, by task.
        head_names: canonical -> source module names of everything that only some checkpoints hold: heads and poolers.
        prefix: what checkpoints with a head put before the names of the rest; those without a head leave it out.
        seq2seq: encoder and decoder belong together: the decoder attends to what the encoder puts out.
        ignored: glob on source names -> why leaving those tensors out is right; any other leftover is an error.
        left_out: the same, of tensors whose names depend on the config.
    """

    family: str
    model_types: Mapping[str, Mapping[str, Any]]
    read_config: Callable[[ConfigReader], Any]
    names: Mapping[str, Callable[[Any], NameMap]]
    decoder: Callable[[GraphBuilder, Any], None] | None = None
    encoder: Callable[[GraphBuilder, Any, Tokens], Value] | None = None
    heads: Mapping[str, Head] = field(default_factory=dict[str, Head])
    head_names: Callable[[Any], NameMap] = lambda _: {}
    prefix: str = ""
    seq2seq: bool = False
    ignored: Mapping[str, str] = field(default_factory=dict[str, str])
    left_out: Callable[[Any], Mapping[str, str]] = lambda _: {}
