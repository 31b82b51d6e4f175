"""LayerNorms of decoders: with the parts that a config names, and of single heads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.norm import bare_layer_norm, by_head, heads_normed, layer_norm, together
from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import GptConfig
from edgelm_export.graph import GraphBuilder


def stated_norm(g: GraphBuilder, x: ir.Value, name: str, c: GptConfig) -> ir.Value:
    """LayerNorm over hidden_size with what the config says norms hold."""
    if not c.norm_parts:
        return bare_layer_norm(g, x, name, c.hidden_size, c.norm_eps)
    offsets = {"weight": np.float32(c.norm_offset), "bias": np.float32(0)}
    parts = [(g.weight(f"{name}.{leaf}", (c.hidden_size,)), offsets[leaf]) for leaf in c.norm_parts]
    stored = [
        g.stored(part.name, "float32", part.shape, lambda part=part, offset=offset: [part.read() + offset])
        for part, offset in parts
    ]
    return g.op("LayerNormalization", x, *(as_activation(g, value) for value in stored), axis=-1, epsilon=c.norm_eps)


def shared_head_norms(g: GraphBuilder, q: ir.Value, k: ir.Value, c: GptConfig) -> tuple[ir.Value, ir.Value]:
    """LayerNorms of the heads of queries and keys, with one weight and one bias for all heads of a kind."""
    q = layer_norm(g, by_head(g, q, c.head_dim), "q_norm", c.head_dim, c.norm_eps)
    k = layer_norm(g, by_head(g, k, c.head_dim), "k_norm", c.head_dim, c.norm_eps)
    return together(g, q), together(g, k)


def own_head_norms(g: GraphBuilder, q: ir.Value, k: ir.Value, c: GptConfig) -> tuple[ir.Value, ir.Value]:
    """LayerNorms of the heads of queries and keys, each with a weight that is a tensor of its own."""
    q = _own_norms(g, q, "q_norm", c.num_attention_heads, c)
    return q, _own_norms(g, k, "k_norm", c.num_key_value_heads, c)


def _own_norms(g: GraphBuilder, x: ir.Value, name: str, heads: int, c: GptConfig) -> ir.Value:
    weights = [g.weight(f"{name}.{head}.weight", (c.head_dim,)) for head in range(heads)]
    return heads_normed(g, x, name, weights, heads, c)
