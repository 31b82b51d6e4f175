"""LayerNorms of decoders: with the parts that a config names, and of single heads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.linear import as_activation
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.config import GptConfig
from edgelm_export.graph import GraphBuilder


def stated_norm(g: GraphBuilder, x: ir.Value, name: str, c: GptConfig) -> ir.Value:
    """LayerNorm over hidden_size with what the config says norms hold; without a weight it is 1."""
    weight = None
    if "weight" in c.norm_parts:
        part = g.weight(f"{name}.weight", (c.hidden_size,))
        weight = g.stored(part.name, "float32", part.shape, lambda: [part.read() + np.float32(c.norm_offset)])
    inputs = [x, g.constant(np.ones(c.hidden_size, np.float32), "norm_of_ones") if weight is None else weight]
    if "bias" in c.norm_parts:
        bias = g.weight(f"{name}.bias", (c.hidden_size,))
        inputs.append(g.stored(bias.name, "float32", bias.shape, lambda: [bias.read()]))
    return g.op("LayerNormalization", *inputs, axis=-1, epsilon=c.norm_eps)


def shared_head_norms(g: GraphBuilder, q: ir.Value, k: ir.Value, c: GptConfig) -> tuple[ir.Value, ir.Value]:
    """LayerNorms of the heads of queries and keys, with one weight and one bias for all heads of a kind."""
    q = layer_norm(g, _heads(g, q, c), "q_norm", c.head_dim, c.norm_eps)
    k = layer_norm(g, _heads(g, k, c), "k_norm", c.head_dim, c.norm_eps)
    return _joined(g, q), _joined(g, k)


def own_head_norms(g: GraphBuilder, q: ir.Value, k: ir.Value, c: GptConfig) -> tuple[ir.Value, ir.Value]:
    """LayerNorms of the heads of queries and keys, each head with a weight of its own and none with a bias."""
    q = _own_norm(g, q, "q_norm", c.num_attention_heads, c)
    return q, _own_norm(g, k, "k_norm", c.num_key_value_heads, c)


def _own_norm(g: GraphBuilder, x: ir.Value, name: str, heads: int, c: GptConfig) -> ir.Value:
    weights = [g.weight(f"{name}.{head}.weight", (c.head_dim,)) for head in range(heads)]
    shape = (heads, c.head_dim)
    scale = g.stored(g.name(f"{name}.weight"), "float32", shape, lambda: (weight.read() for weight in weights))
    ones = g.constant(np.ones(c.head_dim, np.float32), "head_norm_of_ones")
    normed = g.op("LayerNormalization", _heads(g, x, c), ones, axis=-1, epsilon=c.norm_eps)
    return _joined(g, g.op("Mul", normed, as_activation(g, scale)))


def _heads(g: GraphBuilder, x: ir.Value, c: GptConfig) -> ir.Value:
    """[batch, sequence, heads * head_dim] -> [batch, sequence, heads, head_dim]."""
    return g.op("Reshape", x, g.constant(np.array([0, 0, -1, c.head_dim], np.int64)))


def _joined(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """[batch, sequence, heads, head_dim] -> [batch, sequence, heads * head_dim]."""
    return g.op("Reshape", x, g.constant(np.array([0, 0, -1], np.int64)))
