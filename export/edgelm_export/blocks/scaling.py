"""Multiplication by what a config says, and soft limits."""

from __future__ import annotations

import onnx_ir as ir

from edgelm_export.blocks.precision import number
from edgelm_export.graph import GraphBuilder


def scaled(g: GraphBuilder, x: ir.Value, factor: float) -> ir.Value:
    """x * factor."""
    return x if factor == 1 else g.op("Mul", x, number(g, factor))


def soft_capped(g: GraphBuilder, x: ir.Value, cap: float | None) -> ir.Value:
    """cap * tanh(x / cap), which stays within the cap (Gemma 2, arXiv:2408.00118, section 2)."""
    if cap is None:
        return x
    limit = number(g, cap)
    return g.op("Mul", g.op("Tanh", g.op("Div", x, limit)), limit)


def clipped(g: GraphBuilder, x: ir.Value, limit: float | None) -> ir.Value:
    """x within -limit and limit."""
    if limit is None:
        return x
    return g.op("Max", g.op("Min", x, number(g, limit)), number(g, -limit))  # CUDA has no Clip of bfloat16
