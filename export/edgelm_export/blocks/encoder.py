"""The two ends of an encoder program: token ids and mask in; hidden states, and what a head makes of them, out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm.tasks import FILL_MASK
from edgelm_export.blocks.linear import linear, lookup
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import EncoderConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.task import Task


@dataclass(frozen=True)
class Tokens:
    """What one call of an encoder shares between its layers, each [batch, sequence]; padding stands on the right."""

    ids: ir.Value
    mask: ir.Value  # int64, 1 for a token
    type_ids: ir.Value | None  # None where the model has one type, or none


Head = Callable[[GraphBuilder, ir.Value, Any, Tokens, Task], None]


def encoder_inputs(g: GraphBuilder, c: Any, task: Task) -> Tokens:
    """Declares the inputs of an encoder program."""
    typed = has_token_types(c)
    g.declare(signature.encoder_inputs(token_types=typed, positions=task.name == FILL_MASK))
    type_ids = g.input(signature.TOKEN_TYPE_IDS) if typed else None
    return Tokens(g.input(signature.INPUT_IDS), g.input(signature.ATTENTION_MASK), type_ids)


def has_token_types(c: Any) -> bool:
    """Whether there is more than one token type to tell apart."""
    return isinstance(c, EncoderConfig) and c.type_vocab_size > 1


def embeddings(g: GraphBuilder, c: EncoderConfig, tokens: Tokens, positions: ir.Value | None = None) -> ir.Value:
    """Tokens, positions and types, summed and normed, in the width of the tables: [batch, sequence, embedding_size]."""
    x = embedding_sum(g, c, tokens, positions)
    return g.tap("embeddings", layer_norm(g, x, "embedding_norm", c.embedding_size, c.layer_norm_eps))


def embedding_sum(g: GraphBuilder, c: EncoderConfig, tokens: Tokens, positions: ir.Value | None = None) -> ir.Value:
    """Tokens, positions and types, summed: [batch, sequence, embedding_size].

    `positions` are rows of the position table, [sequence] or [batch, sequence]; by default those from 0.
    """
    size = c.embedding_size
    x = lookup(g, tokens.ids, "embed_tokens", (c.vocab_size, size))
    if c.max_position_embeddings:
        rows = sequence_positions(g, tokens.ids) if positions is None else positions
        x = g.op("Add", x, lookup(g, rows, "position_embeddings", (c.max_position_embeddings, size)))
    if c.type_vocab_size:
        types = g.constant(np.array([0], np.int64)) if tokens.type_ids is None else tokens.type_ids
        x = g.op("Add", x, lookup(g, types, "token_type_embeddings", (c.type_vocab_size, size)))
    return x


def sequence_positions(g: GraphBuilder, ids: ir.Value) -> ir.Value:
    """0, 1, 2 ... of the sequence axis of ids, int64 [sequence]."""
    zero, one = (g.constant(np.array(n, np.int64)) for n in (0, 1))
    return g.op("Range", zero, sequence_length(g, ids), one)


def sequence_length(g: GraphBuilder, ids: ir.Value) -> ir.Value:
    """Length of the sequence axis of ids, int64 []."""
    return g.op("Squeeze", g.op("Shape", ids, start=1, end=2))


def offset_positions(g: GraphBuilder, ids: ir.Value, pad_token_id: int) -> ir.Value:
    """RoBERTa's positions: tokens count on from `pad_token_id` + 1, padding stays at it; int64 [batch, sequence].

    As `create_position_ids_from_input_ids` in transformers: what counts is the id, not the mask.
    """
    return g.op("Add", token_numbers(g, ids, pad_token_id), g.constant(np.array(pad_token_id, np.int64)))


def token_numbers(g: GraphBuilder, ids: ir.Value, pad_token_id: int, past: ir.Value | None = None) -> ir.Value:
    """1, 2, 3 ... for the tokens of each text, 0 for padding; int64 [batch, sequence]. `past` [batch, 1] came before them."""
    pad, axis = g.constant(np.array(pad_token_id, np.int64)), g.constant(np.array(1, np.int64))
    real = g.op("Cast", g.op("Not", g.op("Equal", ids, pad)), to=ir.DataType.INT64)
    count = g.op("CumSum", real, axis)
    return g.op("Mul", count if past is None else g.op("Add", count, past), real)


def widened(g: GraphBuilder, x: ir.Value, c: EncoderConfig, *, bias: bool = True) -> ir.Value:
    """Embeddings of factorised tables in the width of the layers: [batch, sequence, hidden_size]."""
    if c.embedding_size == c.hidden_size:
        return x
    return linear(g, x, {"embedding_projection": c.hidden_size}, c.embedding_size, bias=bias)


def first_token(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """The first token's vector of each text: [batch, sequence, size] -> [batch, size]."""
    return g.op("Gather", x, g.constant(np.array(0, np.int64)), axis=1)


def last_token(g: GraphBuilder, x: ir.Value, tokens: Tokens) -> ir.Value:
    """The last token's vector of each text: [batch, sequence, size] -> [batch, size]."""
    axis, one = g.constant(np.array([1], np.int64)), g.constant(np.array([1], np.int64))
    last = g.op("Sub", g.op("ReduceSum", tokens.mask, axis, keepdims=1), one)  # [batch, 1]
    return g.op("GatherND", x, last, batch_dims=1)


def last_but(g: GraphBuilder, x: ir.Value, tokens: Tokens, pad_token_id: int) -> ir.Value:
    """The vector of each text's last token that is not `pad_token_id`: [batch, sequence, size] -> [batch, size].

    What counts is the id: a text may end with the token that serves as padding elsewhere.
    """
    pad, axis = g.constant(np.array(pad_token_id, np.int64)), g.constant(np.array([1], np.int64))
    other = g.op("Cast", g.op("Not", g.op("Equal", tokens.ids, pad)), to=ir.DataType.INT64)
    places = g.op("Mul", g.op("Mul", other, tokens.mask), sequence_positions(g, tokens.ids))
    return g.op("GatherND", x, g.op("ReduceMax", places, axis, keepdims=1), batch_dims=1)


def token_weights(g: GraphBuilder, tokens: Tokens) -> ir.Value:
    """The mask as factors, [batch, sequence, 1] in the dtype of activations."""
    column = g.op("Unsqueeze", tokens.mask, g.constant(np.array([-1], np.int64)))
    return as_activation(g, column)
