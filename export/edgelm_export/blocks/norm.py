"""Normalization layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder


def rms_norm(g: GraphBuilder, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis of `size` (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    weight = g.weight(f"{name}.weight", (size,))
    scale = g.stored(weight.name, "float32", (size,), lambda: [weight.read()])
    return g.op("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)


def layer_norm(g: GraphBuilder, x: ir.Value, name: str, size: int, epsilon: float, *, bias: bool = True) -> ir.Value:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis of `size` (Ba et al. 2016, arXiv:1607.06450)."""
    parts = [g.weight(f"{name}.{leaf}", (size,)) for leaf in (("weight", "bias") if bias else ("weight",))]
    stored = [g.stored(part.name, "float32", (size,), lambda part=part: [part.read()]) for part in parts]
    return g.op("LayerNormalization", x, *stored, axis=-1, epsilon=epsilon)


def head_norm(g: GraphBuilder, x: ir.Value, name: str, head_dim: int, epsilon: float) -> ir.Value:
    """RMS norm of each head apart: [batch, sequence, heads * head_dim] -> the same."""
    heads = g.op(
        "Reshape", x, g.constant(np.array([0, 0, -1, head_dim], np.int64))
    )  # [batch, sequence, heads, head_dim]
    return g.op("Reshape", rms_norm(g, heads, name, head_dim, epsilon), g.constant(np.array([0, 0, -1], np.int64)))


def head_norms(g: GraphBuilder, q: ir.Value, k: ir.Value, c: DecoderConfig) -> tuple[ir.Value, ir.Value]:
    """RMS norms of the heads of queries and keys, with one weight for all heads of a kind."""
    q = head_norm(g, q, "q_norm", c.head_dim, c.norm_eps)
    return q, head_norm(g, k, "k_norm", c.head_dim, c.norm_eps)
