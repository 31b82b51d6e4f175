"""Multiplication by what a config says, and soft limits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.linear import as_activation
from edgelm_export.graph import GraphBuilder


def scaled(g: GraphBuilder, x: ir.Value, factor: float) -> ir.Value:
    """x * factor."""
    return x if factor == 1 else g.op("Mul", x, _number(g, factor))


def soft_capped(g: GraphBuilder, x: ir.Value, cap: float | None) -> ir.Value:
    """cap * tanh(x / cap), which stays within the cap (Gemma 2, arXiv:2408.00118, section 2)."""
    if cap is None:
        return x
    limit = _number(g, cap)
    return g.op("Mul", g.op("Tanh", g.op("Div", x, limit)), limit)


def clipped(g: GraphBuilder, x: ir.Value, limit: float | None) -> ir.Value:
    """x within -limit and limit."""
    return x if limit is None else g.op("Clip", x, _number(g, -limit), _number(g, limit))


def _number(g: GraphBuilder, number: float) -> ir.Value:
    return as_activation(g, g.constant(np.array(number, np.float32)))
