"""Projections whose input is rounded to 8 bits at run time, one scale for the whole input, weights with one scale a row.

The error of such a projection is that of its input's few wide columns. What is known of them (Recipe.ranges) moves part of
their width into the weights: x / s times W * s (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.kernels import dynamic_quantize_matmul
from edgelm_export.graph import GraphBuilder
from edgelm_export.quantize.formats import Format
from edgelm_export.weights import Weight, not_finite

Factors = NDArray[np.float32]

# Share of a column's width that the weights take over, and the steps of the factors an octave. Measured on MiniLM: cosine to float
# 0.9981 on average and 0.9965 at worst over 256 sentences; without factors 0.993 and 0.983; shares of 0.7 and 0.9 do less.
_ALPHA, _STEPS = 0.8, 4


def dynamic_projection(
    g: GraphBuilder, x: ir.Value, name: str, weights: Sequence[Weight], form: Format, bias: ir.Value | None
) -> ir.Value:
    """x @ weights.T + bias on the integer kernel: [..., k] -> [..., n]."""
    n, k = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
    ranges = None if g.recipe.ranges is None else g.recipe.ranges.get(name)

    @cache
    def factors() -> Factors:
        return np.ones(k, np.float32) if ranges is None else _factors(ranges, weights)

    scales: list[NDArray[np.float32]] = []

    def transposed() -> Iterator[NDArray[np.int8]]:
        parts: list[NDArray[np.uint8]] = []
        for weight in weights:
            for chunk in weight.chunks(form.flaw):
                part = form.quantize(chunk * factors())
                parts.append(part.packed[:, 0])
                scales.append(part.scales[:, 0].astype(np.float32))
        # The kernel wants [k, n], so the whole weight comes at once, at a quarter of its float size.
        yield (np.concatenate(parts).T ^ np.uint8(128)).view(np.int8)

    if ranges is not None:
        inverse = g.stored(f"{name}.smoothing", "float32", (k,), lambda: [1 / factors()])
        x = g.op("Mul", x, inverse)
    stored = g.stored(f"{name}.transposed", "int8", (k, n), transposed)
    scale = g.stored(f"{name}.scales", "float32", (n,), lambda: scales)
    # Where ONNX Runtime rewrites signed weights (session.x64quantprecision), it fails on those that two nodes read.
    return dynamic_quantize_matmul(g, x, g.unshared(stored), scale, bias)


def _factors(ranges: Factors, weights: Sequence[Weight]) -> Factors:
    """What each column of the input is divided by, in steps, so that the last bits of a range change no weight."""
    widths = np.zeros_like(ranges)
    for weight in weights:
        for chunk in weight.chunks(not_finite):
            np.maximum(widths, np.abs(chunk).max(0), out=widths)
    known = (ranges > 0) & (widths > 0)
    logs = _ALPHA * np.log2(ranges, where=known, out=np.zeros_like(ranges))
    logs -= (1 - _ALPHA) * np.log2(widths, where=known, out=np.zeros_like(widths))
    return np.exp2(np.where(known, np.rint(logs * _STEPS) / _STEPS, 0)).astype(np.float32)
