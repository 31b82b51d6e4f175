"""Weights with one scale a row, int8 [n, k], and products whose input is rounded to 8 bits row by row.

The integers of a product are exact and each row has its own scale, so a row's result is the same, to the bit, whatever its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.kernels import matmul_integer_to_float
from edgelm_export.graph import DTYPES, GraphBuilder
from edgelm_export.quantize.formats import Format
from edgelm_export.weights import Weight


@dataclass(frozen=True)
class RowWeight:
    """A stored weight [n, k]: codes int8 [n, k], scales [n, 1] in the dtype of activations."""

    codes: ir.Value
    scales: ir.Value


def store_rows(g: GraphBuilder, name: str, weights: Sequence[Weight], form: Format) -> RowWeight:
    """Joins the weights' rows, piece by piece."""
    n, k = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
    scales: list[NDArray[np.float16]] = []

    def codes() -> Iterator[NDArray[np.int8]]:
        for weight in weights:
            for chunk in weight.chunks(form.flaw):
                part = form.quantize(chunk)
                scales.append(part.scales)
                yield (part.packed[:, 0] ^ np.uint8(128)).view(np.int8)

    stored = g.stored(f"{name}.codes", "int8", (n, k), codes)
    # There once the last piece is coded, so they are stored in this order.
    scale = g.stored(f"{name}.scales", form.scale_dtype, (n, 1), lambda: scales)
    activations = DTYPES[g.provider.activation_dtype]
    return RowWeight(stored, scale if scale.dtype == activations else g.op("Cast", scale, to=activations))


def row_projection(g: GraphBuilder, x: ir.Value, weight: RowWeight, bias: ir.Value | None) -> ir.Value:
    """x @ weight.T + bias: [..., k] -> [..., n].

    A row of zeros divides by zero, and whatever integers that gives are multiplied by zero again.
    """
    size = g.op("ReduceMax", g.op("Abs", x), g.constant(np.array([-1], np.int64)), keepdims=1)  # [..., 1]
    # Nodes over constants: ONNX Runtime turns them once, when it loads the graph, to what its kernel reads.
    turned = g.op("Transpose", weight.codes, perm=[1, 0])
    scales = g.op("Reshape", weight.scales, g.constant(np.array([-1], np.int64)))
    product = g.op("Mul", matmul_integer_to_float(g, g.op("Div", x, size), turned, scales), size)
    return product if bias is None else g.op("Add", product, bias)


def lookup_codes(g: GraphBuilder, ids: ir.Value, weight: RowWeight) -> ir.Value:
    """Rows `ids` of the weight: ids [...] -> [..., k]."""
    rows = g.op("Cast", g.op("Gather", weight.codes, ids, axis=0), to=DTYPES[g.provider.activation_dtype])
    return g.op("Mul", rows, g.op("Gather", weight.scales, ids, axis=0))
