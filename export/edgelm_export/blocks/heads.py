"""The two ends of a decoder program: token ids in, logits of the asked positions out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.linear import embedding, lm_head
from edgelm_export.config import ModelConfig
from edgelm_export.graph import GraphBuilder


def decoder_input(g: GraphBuilder, c: ModelConfig) -> ir.Value:
    """Embedded tokens of this call, [batch, sequence, hidden_size]."""
    return embedding(g, g.input(signature.INPUT_IDS), c)


def decoder_output(g: GraphBuilder, x: ir.Value, c: ModelConfig) -> None:
    """Logits at `logits_index` only: the head is the largest projection of a small model, and prefill needs one row of it."""
    g.output(signature.logits_port(c.vocab_size), lm_head(g, asked_positions(g, x), c))


def asked_positions(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """The vectors at `logits_index`: [batch, sequence, size] -> [batch, n, size]."""
    index = g.op("Unsqueeze", g.input(signature.LOGITS_INDEX), g.constant(np.array([-1], np.int64)))  # [batch, n, 1]
    return g.op("GatherND", x, index, batch_dims=1)
