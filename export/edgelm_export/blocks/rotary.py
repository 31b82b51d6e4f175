"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864): frequencies with their scalings, and the tables attention reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import ModelConfig, RopeConfig
from edgelm_export.graph import GraphBuilder

Frequencies = NDArray[np.float32]

# GroupQueryAttention turns queries and keys itself where heads and their turning pairs are multiples of these (ONNX Runtime 1.31).
_FUSED_HEAD, _FUSED_PAIRS = 16, 8


@dataclass(frozen=True)
class Rotary:
    """One kind of rotary positions for the layers of a call.

    Attributes:
        rope: which kind.
        cos: of every position, [rows, rotary_dim / 2].
        sin: the same.
        positions: which row each token takes, int64 [batch, sequence], or [1], the row of the first token; None where the
            attention kernel counts positions and turns queries and keys itself.
    """

    rope: RopeConfig
    cos: ir.Value
    sin: ir.Value
    positions: ir.Value | None


@dataclass(frozen=True)
class WholeText:
    """What the layers of one call over whole texts share, as the kernel over a cache wants it: lengths and rotary positions."""

    mask: ir.Value  # int64 [batch, sequence], 1 for a token
    seqlens_k: ir.Value
    total_sequence_length: ir.Value
    rotaries: tuple[Rotary | None, ...]


def whole_text(g: GraphBuilder, c: ModelConfig, ropes: tuple[RopeConfig | None, ...], mask: ir.Value) -> WholeText:
    """Lengths of the texts behind a mask [batch, sequence] whose padding stands on the right, and each layer's positions."""
    lengths = g.op("ReduceSum", mask, g.constant(np.array([1], np.int64)), keepdims=0)
    seqlens_k = g.op("Cast", g.op("Sub", lengths, g.constant(np.array(1, np.int64))), to=ir.DataType.INT32)
    total = g.op("Cast", g.op("Squeeze", g.op("Shape", mask, start=1, end=2)), to=ir.DataType.INT32)

    def beyond(length: int) -> ir.Value:
        return g.op("Greater", total, g.constant(np.array(length, np.int32)))

    turned = rotaries(g, c, ropes, beyond, lambda: g.constant(np.array([0], np.int64)))
    return WholeText(mask, seqlens_k, total, turned)


def rotaries(
    g: GraphBuilder,
    c: ModelConfig,
    ropes: tuple[RopeConfig | None, ...],
    beyond: Callable[[int], ir.Value],
    positions: Callable[[], ir.Value],
    *,
    by_kernel: bool = True,
) -> tuple[Rotary | None, ...]:
    """The rotary positions of each layer; layers of one kind share their tables.

    Args:
        ropes: each layer's kind.
        beyond: gives whether texts are longer than so many tokens, bool [] or [batch, 1], if a layer wants to be told.
        positions: gives those of this call's tokens, if a layer wants to be told.
        by_kernel: the attention kernel may turn queries and keys, where it can.
    """
    made: dict[RopeConfig, Rotary] = {}
    for rope in dict.fromkeys(rope for rope in ropes if rope is not None):
        with g.at("rotary", len(made)) if made else g.at():
            made[rope] = _rotary(g, c, rope, beyond, positions, by_kernel)
    return tuple(None if rope is None else made[rope] for rope in ropes)


def rotary_tables(g: GraphBuilder, rope: RopeConfig, head_dim: int, rows: int) -> tuple[ir.Value, ir.Value]:
    """cos and sin of position * frequency, each [rows, rotary_dim / 2] in the dtype of activations.

    Those of "longrope" hold the positions up to original_max_position_embeddings first, by the frequencies of short contexts,
    and behind them all positions by those of long ones, where there may be long ones.

    Written as nodes over constants: ONNX Runtime computes them once when it loads the graph, so the package
    stays small at any context length.
    """
    short = min(rows, rope.original_max_position_embeddings) if rope.rope_type == "longrope" else rows
    parts = [_angles(g, _frequencies(g, rope, head_dim), short)]
    if short < rows:
        long = g.constant(inverse_frequencies(rope, head_dim, long=True), g.name("long_inverse_frequencies"))
        parts.append(_angles(g, long, rows))
    angles = parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=0)
    waves = (g.op("Cos", angles), g.op("Sin", angles))
    if rope.attention_factor != 1:
        factor = g.constant(np.array(rope.attention_factor, np.float32))
        waves = (g.op("Mul", waves[0], factor), g.op("Mul", waves[1], factor))
    cos, sin = (as_activation(g, wave, ir.DataType.FLOAT) for wave in waves)
    return cos, sin


def inverse_frequencies(rope: RopeConfig, head_dim: int, *, long: bool = False) -> Frequencies:
    """Angular frequency of each pair of dimensions, float32 [rotary_dim / 2], scaled as the config says; `long` as for LongRoPE."""
    size = rope.rotary_dim or head_dim
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.float32(rope.rope_theta) ** exponents
    if rope.rope_type == "longrope":
        powers = powers * np.array(rope.long_factor if long else rope.short_factor, np.float32)
    return _SCALINGS.get(rope.rope_type, _default)(np.float32(1) / powers, rope)


def _rotary(
    g: GraphBuilder,
    c: ModelConfig,
    rope: RopeConfig,
    beyond: Callable[[int], ir.Value],
    positions: Callable[[], ir.Value],
    by_kernel: bool,
) -> Rotary:
    cos, sin = rotary_tables(g, rope, c.head_dim, c.context_length)
    short = rope.short_context(c.context_length)
    if short is not None:
        first = g.op("Where", beyond(short), *(g.constant(np.array(row, np.int64)) for row in (short, 0)))
        return Rotary(rope, cos, sin, g.op("Add", positions(), first))
    size = rope.rotary_dim or c.head_dim
    fused = by_kernel and c.head_dim % _FUSED_HEAD == 0 and size // 2 % _FUSED_PAIRS == 0
    return Rotary(rope, cos, sin, None if fused else positions())


def _frequencies(g: GraphBuilder, rope: RopeConfig, head_dim: int) -> ir.Value:
    frequencies = g.constant(inverse_frequencies(rope, head_dim), g.name("inverse_frequencies"))
    if rope.rope_type != "freq_factors":
        return frequencies
    factors = g.weight("rope_factors.weight", ((rope.rotary_dim or head_dim) // 2,))
    return g.op("Div", frequencies, g.stored(factors.name, "float32", factors.shape, lambda: [factors.read()]))


def _angles(g: GraphBuilder, frequencies: ir.Value, rows: int) -> ir.Value:
    start, stop, step = (g.constant(np.array(n, np.int64)) for n in (0, rows, 1))
    positions = g.op("Cast", g.op("Range", start, stop, step), to=ir.DataType.FLOAT)
    column = g.op("Unsqueeze", positions, g.constant(np.array([1], np.int64)))  # [rows, 1]
    return g.op("Mul", column, frequencies)


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


def _yarn(frequencies: Frequencies, rope: RopeConfig) -> Frequencies:
    """Pairs that turn fewer than beta_slow times in the context of training are slowed by `factor`, those above beta_fast kept.

    Between them the blend is linear in the pair's number (Peng et al. 2023, arXiv:2309.00071, section 3.2).
    """
    size = 2 * len(frequencies)

    def pair_of(turns: float) -> float:
        wavelength = rope.original_max_position_embeddings / (turns * 2 * math.pi)
        return size * math.log(wavelength) / (2 * math.log(rope.rope_theta))

    first, last = pair_of(rope.beta_fast), pair_of(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    width = last - first or 0.001
    slowed = np.clip((np.arange(len(frequencies), dtype=np.float32) - first) / width, 0, 1).astype(np.float32)
    return (frequencies / np.float32(rope.factor) * slowed + frequencies * (1 - slowed)).astype(np.float32)


def _proportional(frequencies: Frequencies, rope: RopeConfig) -> Frequencies:
    """The first pairs turn and the others stand still."""
    turning = int(rope.proportion * 2 * len(frequencies) // 2)
    scaled = frequencies / np.float32(rope.factor)
    return np.where(np.arange(len(frequencies)) < turning, scaled, 0).astype(np.float32)


_SCALINGS: Mapping[str, Callable[[Frequencies, RopeConfig], Frequencies]] = {
    "linear": _linear,
    "llama3": _llama3,
    "proportional": _proportional,
    "yarn": _yarn,
}
