"""Normalization layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.weights import Weight

# (g, hidden states, name of the weights, size of the last axis, epsilon) -> the same, normed.
Norm = Callable[[GraphBuilder, ir.Value, str, int, float], ir.Value]


def rms_norm(g: GraphBuilder, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis of `size` (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    weight = g.weight(f"{name}.weight", (size,))
    scale = g.stored(weight.name, "float32", (size,), lambda: [weight.read()])
    return g.op("RMSNormalization", x, as_activation(g, scale), axis=-1, epsilon=epsilon)


def layer_norm(g: GraphBuilder, x: ir.Value, name: str, size: int, epsilon: float, *, bias: bool = True) -> ir.Value:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis of `size` (Ba et al. 2016, arXiv:1607.06450)."""
    parts = [g.weight(f"{name}.{leaf}", (size,)) for leaf in (("weight", "bias") if bias else ("weight",))]
    stored = [g.stored(part.name, "float32", (size,), lambda part=part: [part.read()]) for part in parts]
    return g.op("LayerNormalization", x, *(as_activation(g, value) for value in stored), axis=-1, epsilon=epsilon)


def bare_layer_norm(g: GraphBuilder, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
    """The same without weight and bias."""
    ones = as_activation(g, g.constant(np.ones(size, np.float32), f"ones.{size}"))
    return g.op("LayerNormalization", x, ones, axis=-1, epsilon=epsilon)


def head_norm(g: GraphBuilder, x: ir.Value, name: str, head_dim: int, epsilon: float) -> ir.Value:
    """RMS norm of each head apart: [batch, sequence, heads * head_dim] -> the same."""
    return together(g, rms_norm(g, by_head(g, x, head_dim), name, head_dim, epsilon))


def head_norms(g: GraphBuilder, q: ir.Value, k: ir.Value, c: DecoderConfig) -> tuple[ir.Value, ir.Value]:
    """RMS norms of the heads of queries and keys, with one weight for all heads of a kind."""
    q = head_norm(g, q, "q_norm", c.head_dim, c.norm_eps)
    return q, head_norm(g, k, "k_norm", c.head_dim, c.norm_eps)


def whole_norms(g: GraphBuilder, q: ir.Value, k: ir.Value, c: DecoderConfig) -> tuple[ir.Value, ir.Value]:
    """RMS norms of queries and keys, over all heads of a token together."""
    q = rms_norm(g, q, "q_norm", c.query_size, c.norm_eps)
    return q, rms_norm(g, k, "k_norm", c.key_value_size, c.norm_eps)


def head_layer_norms(g: GraphBuilder, q: ir.Value, k: ir.Value, c: DecoderConfig) -> tuple[ir.Value, ir.Value]:
    """Layer norms of the heads of queries and keys, with a weight for each head and no bias."""
    q = _head_layer_norm(g, q, "q_norm", c.num_attention_heads, c)
    return q, _head_layer_norm(g, k, "k_norm", c.num_key_value_heads, c)


def _head_layer_norm(g: GraphBuilder, x: ir.Value, name: str, heads: int, c: DecoderConfig) -> ir.Value:
    return heads_normed(g, x, name, [g.weight(f"{name}.weight", (heads, c.head_dim))], heads, c)


def heads_normed(
    g: GraphBuilder, x: ir.Value, name: str, weights: Sequence[Weight], heads: int, c: DecoderConfig
) -> ir.Value:
    """Layer norm of each head times a weight of its own; `weights` hold those of all heads, in one tensor or in several."""
    shape = (heads, c.head_dim)
    stored = g.stored(g.name(f"{name}.weight"), "float32", shape, lambda: (weight.read() for weight in weights))
    normed = bare_layer_norm(g, by_head(g, x, c.head_dim), name, c.head_dim, c.norm_eps)
    return together(g, g.op("Mul", normed, as_activation(g, stored)))


def by_head(g: GraphBuilder, x: ir.Value, head_dim: int) -> ir.Value:
    """[batch, sequence, heads * head_dim] -> [batch, sequence, heads, head_dim]."""
    return g.op("Reshape", x, g.constant(np.array([0, 0, -1, head_dim], np.int64)))


def together(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """[batch, sequence, heads, head_dim] -> [batch, sequence, heads * head_dim]."""
    return g.op("Reshape", x, g.constant(np.array([0, 0, -1], np.int64)))
