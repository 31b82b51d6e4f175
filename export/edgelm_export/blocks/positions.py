"""Absolute positions that are added to embeddings: a learned table, or sines and cosines."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.cache import Step, past_lengths, step_positions
from edgelm_export.blocks.encoder import sequence_positions, token_numbers
from edgelm_export.blocks.linear import lookup
from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import BartConfig
from edgelm_export.graph import GraphBuilder


def position_embeddings(g: GraphBuilder, ids: ir.Value, c: BartConfig, step: Step | None = None) -> ir.Value:
    """What is added to the embeddings of `ids` [batch, sequence], which follow those of earlier steps where there is a `step`."""
    rows, size = c.max_position_embeddings, c.hidden_size
    if c.positions == "counted":
        past = None if step is None else past_lengths(g, step, ids)
        return counted_positions(g, token_numbers(g, ids, c.pad_token_id, past), c.pad_token_id + 1, rows, size)
    places = sequence_positions(g, ids) if step is None else step_positions(g, step, ids)
    if c.positions == "sinusoidal":
        return sinusoidal_positions(g, places, rows, size)
    return learned_positions(g, places, rows, size, c.position_offset)


def learned_positions(g: GraphBuilder, positions: ir.Value, rows: int, size: int, offset: int = 0) -> ir.Value:
    """Rows of the table `position_embeddings`, the first `offset` of which stand for no position."""
    if offset:
        positions = g.op("Add", positions, g.constant(np.array(offset, np.int64)))
    return lookup(g, positions, "position_embeddings", (rows + offset, size))


def sinusoidal_positions(g: GraphBuilder, positions: ir.Value, rows: int, size: int) -> ir.Value:
    """All sines of position / 10000^(2i / size), then all cosines (Vaswani et al. 2017, arXiv:1706.03762, unmixed).

    A checkpoint that stores its table is taken at its word, as transformers does.

    Args:
        positions: int64 of any shape.
        rows: positions there are.
        size: width, even.
    """
    if g.has("position_embeddings.weight"):
        return learned_positions(g, positions, rows, size)
    frequencies = 10000.0 ** (-np.arange(0, size, 2) / size)
    return g.op("Gather", as_activation(g, _waves(g, frequencies, 0, rows), ir.DataType.FLOAT), positions, axis=0)


def counted_positions(g: GraphBuilder, numbers: ir.Value, first: int, rows: int, size: int) -> ir.Value:
    """The same for tokens that are counted from `first`, with frequencies from 1 to 1 / 10000 as in tensor2tensor.

    Angles are float32, as where such models were trained: at position 1000 their rounding moves a sine by 5e-5.

    Args:
        numbers: 1, 2, 3 ... for tokens, 0 for padding, which gets zeros; int64 [batch, sequence].
        first: the position of token 1.
        rows: tokens there may be.
        size: width, even and at least 4.
    """
    half = size // 2
    steps = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000.0) / (half - 1))
    waves = _waves(g, np.exp(steps), first, rows)
    table = g.op("Concat", g.constant(np.zeros((1, size), np.float32)), waves, axis=0)
    return g.op("Gather", as_activation(g, table, ir.DataType.FLOAT), numbers, axis=0)


def _waves(g: GraphBuilder, frequencies: NDArray[np.floating], first: int, rows: int) -> ir.Value:
    """Sines beside cosines of `rows` positions from `first` times the frequencies, in their precision: float32 [rows, size].

    Nodes over constants: ONNX Runtime computes the table once, when it loads the graph (with Cast, but not with CastLike).
    """
    start, stop, step = (g.constant(np.array(n, np.int64)) for n in (first, first + rows, 1))
    column = g.op("Unsqueeze", g.op("Range", start, stop, step), g.constant(np.array([1], np.int64)))
    factors = g.constant(frequencies, "position_frequencies")
    precision = ir.DataType.from_numpy(frequencies.dtype)
    angles = g.op("Mul", g.op("Cast", column, to=precision), factors)  # [rows, size / 2]
    waves = g.op("Concat", g.op("Sin", angles), g.op("Cos", angles), axis=1)
    return g.op("Cast", waves, to=ir.DataType.FLOAT)
