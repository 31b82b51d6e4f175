"""Feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from edgelm_export.blocks.activations import activation
from edgelm_export.blocks.linear import linear, split
from edgelm_export.config import ModelConfig
from edgelm_export.graph import GraphBuilder

# (g, normed hidden states, config) -> what is added to them.
FeedForward = Callable[[GraphBuilder, ir.Value, Any], ir.Value]


def gated_mlp(g: GraphBuilder, x: ir.Value, c: ModelConfig, size: int | None = None) -> ir.Value:
    """down_proj(act(gate_proj(x)) * up_proj(x)) (Shazeer 2020, arXiv:2002.05202); gate and up are one projection.

    `size` is what lies between, the config's intermediate_size by default.
    """
    size = size or c.intermediate_size
    both = linear(g, x, {"gate_proj": size, "up_proj": size}, c.hidden_size, bias=c.mlp_bias, group="gate_up_proj")
    gate, up = split(g, both, (size, size))
    h = g.op("Mul", activation(g, gate, c.hidden_act), up)
    return g.tap("mlp", linear(g, h, {"down_proj": c.hidden_size}, size, bias=c.mlp_bias))


def mlp(g: GraphBuilder, x: ir.Value, c: ModelConfig) -> ir.Value:
    """down_proj(act(up_proj(x))) (Vaswani et al. 2017, arXiv:1706.03762)."""
    size = c.intermediate_size
    h = activation(g, linear(g, x, {"up_proj": size}, c.hidden_size, bias=c.mlp_bias), c.hidden_act)
    return g.tap("mlp", linear(g, h, {"down_proj": c.hidden_size}, size, bias=c.mlp_bias))
