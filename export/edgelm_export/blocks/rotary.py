"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864): frequencies with their scalings, and the tables attention reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.config import ModelConfig, RopeConfig
from edgelm_export.graph import GraphBuilder

Frequencies = NDArray[np.float32]


@dataclass(frozen=True)
class WholeText:
    """What the layers of one call over whole texts share, as the kernel over a cache wants it: lengths and rotary tables."""

    mask: ir.Value  # int64 [batch, sequence], 1 for a token
    seqlens_k: ir.Value
    total_sequence_length: ir.Value
    cos: ir.Value
    sin: ir.Value


def whole_text(g: GraphBuilder, c: ModelConfig, rope: RopeConfig, mask: ir.Value) -> WholeText:
    """Lengths of the texts behind a mask [batch, sequence] whose padding stands on the right."""
    lengths = g.op("ReduceSum", mask, g.constant(np.array([1], np.int64)), keepdims=0)
    seqlens_k = g.op("Cast", g.op("Sub", lengths, g.constant(np.array(1, np.int64))), to=ir.DataType.INT32)
    total = g.op("Cast", g.op("Squeeze", g.op("Shape", mask, start=1, end=2)), to=ir.DataType.INT32)
    return WholeText(mask, seqlens_k, total, *rotary_tables(g, c, rope))


def rotary_tables(g: GraphBuilder, c: ModelConfig, rope: RopeConfig) -> tuple[ir.Value, ir.Value]:
    """cos and sin of position * frequency, each [context_length, head_dim / 2].

    Written as nodes over constants: ONNX Runtime computes them once when it loads the graph, so the package
    stays small at any context length.
    """
    frequencies = g.constant(inverse_frequencies(rope, c.head_dim), g.name("inverse_frequencies"))
    if rope.rope_type == "freq_factors":
        factors = g.weight("rope_factors.weight", (c.head_dim // 2,))
        frequencies = g.op(
            "Div", frequencies, g.stored(factors.name, "float32", factors.shape, lambda: [factors.read()])
        )
    start, stop, step = (g.constant(np.array(n, np.int64)) for n in (0, c.context_length, 1))
    positions = g.op("Cast", g.op("Range", start, stop, step), to=ir.DataType.FLOAT)
    column = g.op("Unsqueeze", positions, g.constant(np.array([1], np.int64)))  # [context_length, 1]
    angles = g.op("Mul", column, frequencies)
    return g.op("Cos", angles), g.op("Sin", angles)


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Frequencies:
    """Angular frequency of each pair of dimensions, float32 [head_dim / 2], scaled as the config says."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return _SCALINGS[rope.rope_type](np.float32(1) / np.float32(rope.rope_theta) ** exponents, rope)


def _default(frequencies: Frequencies, rope: RopeConfig) -> Frequencies:
    return frequencies


def _linear(frequencies: Frequencies, rope: RopeConfig) -> Frequencies:
    return frequencies / np.float32(rope.factor)


def _llama3(frequencies: Frequencies, rope: RopeConfig) -> Frequencies:
    """Long wavelengths divided by `factor`, short ones kept, a linear blend between (Llama 3.1, rope_scaling of its config)."""
    wavelength = 2 * np.pi / frequencies
    turns = rope.original_max_position_embeddings / wavelength
    keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = np.clip(keep, 0, 1).astype(np.float32)
    return ((1 - keep) * frequencies / np.float32(rope.factor) + keep * frequencies).astype(np.float32)


_SCALINGS: Mapping[str, Callable[[Frequencies, RopeConfig], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "freq_factors": _default,
}
