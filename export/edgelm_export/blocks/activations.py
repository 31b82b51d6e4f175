"""Activation functions by the name a config gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from edgelm_export.graph import GraphBuilder

Activation = Callable[[GraphBuilder, ir.Value], ir.Value]


def _silu(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Mul", x, g.op("Sigmoid", x))  # ONNX Runtime fuses the pair into one kernel


def _relu(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Relu", x)


def _squared_relu(g: GraphBuilder, x: ir.Value) -> ir.Value:
    h = g.op("Relu", x)
    return g.op("Mul", h, h)


def _gelu(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Gelu", x, approximate="none")


def _gelu_tanh(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Gelu", x, approximate="tanh")


def _tanh(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Tanh", x)


def _sigmoid(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Sigmoid", x)


def _linear(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return x


ACTIVATIONS: Mapping[str, Activation] = {
    "silu": _silu,
    "swish": _silu,
    "relu": _relu,
    "relu2": _squared_relu,
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "linear": _linear,
}


def activation(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    """The activation called `name`, elementwise."""
    return ACTIVATIONS[name](g, x)
