"""From token vectors to one vector a text, as sentence-transformers' Pooling, Dense and Normalize modules define it.

Sums over a text and lengths of vectors are float32, whatever the dtype of activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.activations import activation
from edgelm_export.blocks.encoder import Tokens, first_token, last_token, token_weights
from edgelm_export.blocks.linear import linear
from edgelm_export.blocks.precision import as_activation, as_float
from edgelm_export.graph import GraphBuilder
from edgelm_export.task import Task

Pooling = Callable[[GraphBuilder, ir.Value, Tokens], ir.Value]

# Padding must never win a maximum; this far below any activation, and still finite in float16.
_LOWEST = -65504.0


def _first(g: GraphBuilder, x: ir.Value, tokens: Tokens) -> ir.Value:
    return first_token(g, x)


def _mean(g: GraphBuilder, x: ir.Value, tokens: Tokens) -> ir.Value:
    """Mean over a text's tokens: [batch, sequence, size] -> [batch, size]."""
    total, count = _sums(g, x, _weights(g, tokens))
    return g.op("Div", total, count)


def _mean_sqrt_length(g: GraphBuilder, x: ir.Value, tokens: Tokens) -> ir.Value:
    total, count = _sums(g, x, _weights(g, tokens))
    return g.op("Div", total, g.op("Sqrt", count))


def _weighted_mean(g: GraphBuilder, x: ir.Value, tokens: Tokens) -> ir.Value:
    """Later tokens count more: weights 1, 2, 3 ... (Muennighoff 2022, arXiv:2202.08904)."""
    weights = _weights(g, tokens)
    rank = g.op("CumSum", weights, g.constant(np.array(1, np.int64)))
    total, count = _sums(g, x, g.op("Mul", rank, weights))
    return g.op("Div", total, count)


def _max(g: GraphBuilder, x: ir.Value, tokens: Tokens) -> ir.Value:
    real = g.op("Cast", _weights(g, tokens), to=ir.DataType.BOOL)
    lowest = g.constant(np.array(_LOWEST, np.float32))
    return g.op("ReduceMax", g.op("Where", real, x, lowest), g.constant(np.array([1], np.int64)), keepdims=0)


def _weights(g: GraphBuilder, tokens: Tokens) -> ir.Value:
    return as_float(g, token_weights(g, tokens))


def _sums(g: GraphBuilder, x: ir.Value, weights: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Weighted sum of the vectors [batch, size] and sum of the weights [batch, 1]."""
    axis = g.constant(np.array([1], np.int64))
    total = g.op("ReduceSum", g.op("Mul", x, weights), axis, keepdims=0)
    return total, g.op("ReduceSum", weights, axis, keepdims=0)


POOLINGS: Mapping[str, Pooling] = {
    "cls": _first,
    "mean": _mean,
    "max": _max,
    "last": last_token,
    "mean-sqrt-length": _mean_sqrt_length,
    "weighted-mean": _weighted_mean,
}


def pooled_states(g: GraphBuilder, x: ir.Value, tokens: Tokens, name: str) -> ir.Value:
    """One pooling of hidden states, in the dtype of activations: [batch, sequence, size] -> [batch, size]."""
    return as_activation(g, POOLINGS[name](g, as_float(g, x), tokens), ir.DataType.FLOAT)


def embedding_head(g: GraphBuilder, x: ir.Value, c: Any, tokens: Tokens, task: Task) -> None:
    """Pools, projects, normalizes and cuts as the checkpoint's modules say; the result is `sentence_embedding`."""
    pooled = [POOLINGS[name](g, as_float(g, x), tokens) for name in task.pooling]
    e = pooled[0] if len(pooled) == 1 else g.op("Concat", *pooled, axis=-1)
    size = c.hidden_size * len(pooled)
    for dense in task.dense:
        narrow = as_activation(g, e, ir.DataType.FLOAT)
        projected = linear(g, narrow, {dense.name: dense.out_features}, size, bias=dense.bias)
        e = as_float(g, activation(g, projected, dense.activation))
        size = dense.out_features
    if task.normalized:
        e = _normalized(g, e)
    if task.truncate_dim is not None and task.truncate_dim < size:
        size = task.truncate_dim
        start, stop, axis = (g.constant(np.array([n], np.int64)) for n in (0, size, -1))
        e = g.op("Slice", e, start, stop, axis)
    g.output(signature.row_port(signature.SENTENCE_EMBEDDING, size), e)


def _normalized(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """Each vector at length 1; the zero vector stays, as torch.nn.functional.normalize keeps it."""
    norm = g.op("ReduceL2", x, g.constant(np.array([-1], np.int64)), keepdims=1)
    return g.op("Div", x, g.op("Max", norm, g.constant(np.array(1e-12, np.float32))))
