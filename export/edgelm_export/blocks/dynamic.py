"""Projections whose input is rounded to 8 bits at run time, one scale for the whole input, weights with one scale a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.kernels import dynamic_quantize_matmul
from edgelm_export.blocks.precision import as_activation
from edgelm_export.blocks.smoothing import smooth, smoothed
from edgelm_export.graph import DTYPES, GraphBuilder
from edgelm_export.quantize.formats import Format
from edgelm_export.weights import Weight


def dynamic_projection(
    g: GraphBuilder, x: ir.Value, name: str, weights: Sequence[Weight], form: Format, bias: ir.Value | None
) -> ir.Value:
    """x @ weights.T + bias on the integer kernel, or as in rows.py where the provider has none: [..., k] -> [..., n]."""
    n, k = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
    x, factors = smoothed(g, x, name, weights, form)
    scales: list[NDArray[np.float32]] = []

    def transposed() -> Iterator[NDArray[np.int8]]:
        parts: list[NDArray[np.uint8]] = []
        for weight in weights:
            for part in form.quantize_pieces(smooth(weight, form, factors)):
                parts.append(part.packed[:, 0])
                scales.append(part.scales[:, 0].astype(np.float32))
        # The kernel wants [k, n], so the whole weight comes at once, at a quarter of its float size.
        yield (np.concatenate(parts).T ^ np.uint8(128)).view(np.int8)

    stored = g.stored(f"{name}.transposed", "int8", (k, n), transposed)
    scale = g.stored(f"{name}.scales", "float32", (n,), lambda: scales)
    if not g.provider.integer_products:
        whole = g.op("Cast", stored, to=DTYPES[g.provider.activation_dtype])
        product = g.op("MatMul", x, g.op("Mul", whole, as_activation(g, scale)))
        return product if bias is None else g.op("Add", product, bias)
    # Where ONNX Runtime rewrites signed weights (session.x64quantprecision, providers.py), it fails on those that two nodes read.
    return dynamic_quantize_matmul(g, x, g.unshared(stored), scale, bias)
