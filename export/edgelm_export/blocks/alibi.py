"""ALiBi (Press et al. 2021, arXiv:2108.12409): a bias on attention scores that falls with the distance, instead of positions."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm import signature
from edgelm_export.blocks.cache import Step
from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import Alibi, GptConfig
from edgelm_export.graph import GraphBuilder


def alibi_slopes(heads: int, bias_max: float) -> NDArray[np.float32]:
    """The slope of each head: a geometric sequence down to 2^-bias_max.

    Where heads are no power of two, the sequence of the power below comes first, then every other one of the power above.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = 2.0 ** (-bias_max * np.arange(1, below + 1) / below)
    between = 2.0 ** (-bias_max * np.arange(1, 2 * below + 1, 2) / (2 * below))
    return np.concatenate([slopes, between[: heads - below]]).astype(np.float32)


def alibi_bias(g: GraphBuilder, c: GptConfig, step: Step) -> ir.Value | None:
    """The bias of all layers, [1, heads, sequence, total_sequence_length]; None where the config has no ALiBi.

    It is slope * key position: what a row of scores has in common, such as the query's position, softmax ignores. For the same
    reason the last key may count as 0, which keeps the bias small near the query, where float16 needs it exact.
    """
    if c.alibi is None:
        return None
    bias = _products(g, c.num_attention_heads, c.alibi, step.total_sequence_length)  # [heads, total]
    last = g.op("Slice", bias, *(g.constant(np.array([n], np.int64)) for n in (-1, np.iinfo(np.int64).max, 1)))
    bias = as_activation(g, g.op("Sub", bias, last), ir.DataType.FLOAT)
    bias = g.op("Unsqueeze", bias, g.constant(np.array([0, 2], np.int64)))
    one = g.constant(np.array([1], np.int64))
    # The fused attention wants a row for each query.
    queries = g.op("Shape", g.input(signature.INPUT_IDS), start=1, end=2)
    return g.op("Expand", bias, g.op("Concat", one, one, queries, one, axis=0))


def _products(g: GraphBuilder, heads: int, alibi: Alibi, total: ir.Value) -> ir.Value:
    """Slope * key position, float32 [heads, total_sequence_length]."""
    zero, one = (g.constant(np.array(n, np.int32)) for n in (0, 1))
    positions = g.op("Cast", g.op("Range", zero, total, one), to=ir.DataType.FLOAT)
    slopes = g.constant(alibi_slopes(heads, alibi.bias_max)[:, None])
    keep = _rounded if alibi.rounded else _kept
    product = keep(g, g.op("Mul", keep(g, slopes), keep(g, positions)))
    return product if alibi.scale == 1 else g.op("Mul", product, g.constant(np.array(alibi.scale, np.float32)))


def _rounded(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Cast", g.op("Cast", x, to=ir.DataType.BFLOAT16), to=ir.DataType.FLOAT)


def _kept(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return x
