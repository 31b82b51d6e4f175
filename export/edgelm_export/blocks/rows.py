"""Weights with one scale a row, int8 [n, k], and products whose input is rounded to 8 bits row by row.

The integers of a product are exact and each row has its own scale, so a row's result is the same, to the bit, whatever its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.kernels import matmul_integer_to_float, matmul_transposed
from edgelm_export.blocks.precision import as_activation
from edgelm_export.blocks.smoothing import Factors, smooth, smoothed
from edgelm_export.graph import DTYPES, GraphBuilder
from edgelm_export.quantize.formats import Format
from edgelm_export.weights import Weight


def row_projection(
    g: GraphBuilder, x: ir.Value, name: str, weights: Sequence[Weight], form: Format, bias: ir.Value | None
) -> ir.Value:
    """x @ weights.T + bias: [..., k] -> [..., n].

    A row of zeros divides by zero, and whatever integers that gives are multiplied by zero again. Where the provider has no
    kernel for such products, the weight becomes an activation when the graph is loaded, and the input is not rounded.
    """
    x, factors = smoothed(g, x, name, weights, form)
    codes, scales = _store(g, name, weights, form, factors)
    if not g.provider.integer_products:
        weight = g.op("Mul", g.op("Cast", codes, to=DTYPES[g.provider.activation_dtype]), scales)
        return _plus(g, matmul_transposed(g, x, weight), bias)
    size = g.op("ReduceMax", g.op("Abs", x), g.constant(np.array([-1], np.int64)), keepdims=1)  # [..., 1]
    # Nodes over constants: ONNX Runtime turns them once, when it loads the graph, to what its kernel reads.
    turned = g.op("Transpose", codes, perm=[1, 0])
    flat = g.op("Reshape", scales, g.constant(np.array([-1], np.int64)))
    return _plus(g, g.op("Mul", matmul_integer_to_float(g, g.op("Div", x, size), turned, flat), size), bias)


def lookup_codes(g: GraphBuilder, ids: ir.Value, name: str, weight: Weight, form: Format) -> ir.Value:
    """Rows `ids` of a table: ids [...] -> [..., k]."""
    codes, scales = _store(g, name, [weight], form, None)
    rows = g.op("Cast", g.op("Gather", codes, ids, axis=0), to=DTYPES[g.provider.activation_dtype])
    return g.op("Mul", rows, g.op("Gather", scales, ids, axis=0))


def _store(
    g: GraphBuilder, name: str, weights: Sequence[Weight], form: Format, factors: Callable[[], Factors] | None
) -> tuple[ir.Value, ir.Value]:
    """Joins the weights' rows, piece by piece: codes int8 [n, k], scales [n, 1] in the dtype of activations."""
    n, k = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
    scales: list[NDArray[np.float16]] = []

    def codes() -> Iterator[NDArray[np.int8]]:
        for weight in weights:
            for part in form.quantize_pieces(smooth(weight, form, factors)):
                scales.append(part.scales)
                yield (part.packed[:, 0] ^ np.uint8(128)).view(np.int8)

    stored = g.stored(f"{name}.codes", "int8", (n, k), codes)
    # There once the last piece is coded, so they are stored in this order.
    return stored, as_activation(g, g.stored(f"{name}.scales", form.scale_dtype, (n, 1), lambda: scales))


def _plus(g: GraphBuilder, product: ir.Value, bias: ir.Value | None) -> ir.Value:
    return product if bias is None else g.op("Add", product, bias)
