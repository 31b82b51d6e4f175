"""Heads on an encoder's hidden states. What a family does in its own way is a function of its file; the rest is here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from edgelm import signature
from edgelm.tasks import EMBEDDING, HIDDEN_STATES, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from edgelm_export.blocks.activations import activation
from edgelm_export.blocks.encoder import Head, Tokens, first_token, last_but, last_token
from edgelm_export.blocks.heads import asked_positions
from edgelm_export.blocks.linear import linear, token_logits
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.blocks.pooling import embedding_head
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.task import Task


def dense(g: GraphBuilder, x: ir.Value, name: str, sizes: tuple[int, int], act: str, *, bias: bool = True) -> ir.Value:
    """One dense layer (in, out) with its activation."""
    return activation(g, linear(g, x, {name: sizes[1]}, sizes[0], bias=bias), act)


def classifier(
    g: GraphBuilder, x: ir.Value, size: int, task: Task, name: str = "classifier", *, bias: bool = True
) -> None:
    """Logits of one vector a text, [batch, size] -> [batch, labels]."""
    logits = linear(g, x, {name: len(task.labels)}, size, bias=bias)
    g.output(signature.row_port(signature.LOGITS, len(task.labels)), logits)


def token_classifier(g: GraphBuilder, x: ir.Value, c: Any, tokens: Tokens, task: Task) -> None:
    """Logits of each token."""
    logits = linear(g, x, {"classifier": len(task.labels)}, c.hidden_size, bias=True)
    g.output(signature.token_logits_port(len(task.labels)), logits)


def span_classifier(g: GraphBuilder, x: ir.Value, c: Any, tokens: Tokens, task: Task) -> None:
    """For each token the logits of an answer's start and of its end."""
    logits = linear(g, x, {"qa_outputs": 2}, c.hidden_size, bias=True)
    g.output(signature.token_logits_port(2), logits)


def pooled_classifier(pooler: str, act: str | None = None, name: str = "classifier") -> Head:
    """A dense layer on the first token, its activation (the config's for poolers by default), then the classifier."""

    def head(g: GraphBuilder, x: ir.Value, c: Any, tokens: Tokens, task: Task) -> None:
        pooled = dense(g, first_token(g, x), pooler, (c.hidden_size, c.hidden_size), act or c.pooler_hidden_act)
        classifier(g, pooled, c.hidden_size, task, name)

    return head


def last_token_classifier(g: GraphBuilder, x: ir.Value, c: DecoderConfig, tokens: Tokens, task: Task) -> None:
    """Logits of the last token, the only one that has seen the whole text."""
    last = last_but(g, x, tokens, c.pad_token_id) if c.pads_by_id else last_token(g, x, tokens)
    classifier(g, last, c.hidden_size, task, "score", bias=False)


def pooler_output(act: str) -> Head:
    """The pooler of checkpoints that hold one: a dense layer on the first token."""

    def head(g: GraphBuilder, x: ir.Value, c: Any, tokens: Tokens, task: Task) -> None:
        if g.has("pooler.weight"):
            pooled = dense(g, first_token(g, x), "pooler", (c.hidden_size, c.hidden_size), act)
            g.output(signature.row_port(signature.POOLER_OUTPUT, c.hidden_size), pooled)

    return head


def masked_lm(act: str | None = None, name: str = "mlm") -> Head:
    """Logits at the asked positions: a dense layer, its activation (the config's by default), a norm, the token table.

    `name` begins the canonical names of its modules.
    """

    def head(g: GraphBuilder, x: ir.Value, c: Any, tokens: Tokens, task: Task) -> None:
        h = dense(g, asked_positions(g, x), f"{name}_dense", (c.hidden_size, c.embedding_size), act or c.hidden_act)
        h = layer_norm(g, h, f"{name}_norm", c.embedding_size, c.layer_norm_eps)
        logits = token_logits(g, h, c, c.embedding_size, bias=_mlm_bias(g, c, name))
        g.output(signature.logits_port(c.vocab_size), logits)

    return head


def _mlm_bias(g: GraphBuilder, c: Any, name: str) -> str:
    """The module whose bias goes on the logits: the decoder's own is another one where it is untied (transformers 5)."""
    tied = c.tie_word_embeddings and g.has(f"{name}.bias")
    return "lm_head" if g.has("lm_head.bias") and not tied else name


def no_head(g: GraphBuilder, x: ir.Value, c: Any, tokens: Tokens, task: Task) -> None:
    """Hidden states only."""


# What any encoder can serve, and what is the same for all that were trained for it.
PLAIN_HEADS: Mapping[str, Head] = {HIDDEN_STATES: no_head, EMBEDDING: embedding_head}
COMMON_HEADS: Mapping[str, Head] = {
    **PLAIN_HEADS,
    TOKEN_CLASSIFICATION: token_classifier,
    QUESTION_ANSWERING: span_classifier,
}
