"""The two ends of a decoder program: token ids in, logits of the asked positions out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.linear import embedding, lm_head, lookup
from edgelm_export.blocks.precision import as_activation
from edgelm_export.blocks.scaling import scaled, soft_capped
from edgelm_export.config import BartConfig, DecoderConfig, Seq2SeqConfig
from edgelm_export.graph import GraphBuilder


def decoder_input(g: GraphBuilder, c: DecoderConfig) -> ir.Value:
    """Embedded tokens of this call, [batch, sequence, hidden_size]."""
    return scaled(g, embedding(g, g.input(signature.INPUT_IDS), c), c.embedding_scale)


def decoder_output(g: GraphBuilder, x: ir.Value, c: DecoderConfig, *, bias: bool = False) -> None:
    """Logits at `logits_index` only: the head is the largest projection of a small model, and prefill needs one row of it."""
    logits = scaled(g, lm_head(g, asked_positions(g, x), c, bias=bias), c.logits_scale)
    g.output(signature.logits_port(c.vocab_size), soft_capped(g, logits, c.logits_softcap))


def asked_positions(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """The vectors at `logits_index`: [batch, sequence, size] -> [batch, n, size]."""
    index = g.op("Unsqueeze", g.input(signature.LOGITS_INDEX), g.constant(np.array([-1], np.int64)))  # [batch, n, 1]
    return g.op("GatherND", x, index, batch_dims=1)


def side_embedding(g: GraphBuilder, ids: ir.Value, c: BartConfig, side: str, scale: float) -> ir.Value:
    """Embedded tokens of the encoder or the decoder, scaled: from the table of both, of decoder and head, or of its own."""
    m = c if side == "encoder" else c.decoder
    with g.at(side):
        tied = c.tie_word_embeddings and (c.shared_embeddings or side == "decoder")
        # Before release 5, transformers saved one table for both sides whenever a model may share it, tied to the head or not.
        own = not tied and (not c.shared_embeddings or g.has("embed_tokens.weight"))
        x = lookup(g, ids, "embed_tokens", (m.vocab_size, m.hidden_size)) if own else None
    if x is None:
        x = embedding(g, ids, m)
    return scaled(g, x, scale)


def seq2seq_output(g: GraphBuilder, x: ir.Value, c: Seq2SeqConfig) -> None:
    """Logits of a decoder at `logits_index`, with what a checkpoint adds to all of them, and their log probabilities."""
    h, size = scaled(g, asked_positions(g, x), c.logits_scale), c.decoder.vocab_size
    logits = lm_head(g, h, c.decoder)
    if c.logits_bias and g.has("final_logits_bias.bias"):
        bias = g.weight("final_logits_bias.bias", (1, size))
        logits = g.op(
            "Add", logits, as_activation(g, g.stored(bias.name, "float32", bias.shape, lambda: [bias.read()]))
        )
    logits = g.output(signature.logits_port(size), logits)
    g.output(signature.log_probabilities_port(size), g.op("LogSoftmax", logits, axis=-1))
