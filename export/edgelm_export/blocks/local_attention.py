"""Bidirectional attention within a window, block by block: the work grows with the text, not with its square.

A block of queries meets the keys of its own stretch and of `reach` tokens on each side. A text that is no longer than
one such stretch is one block, so short texts cost what they cost everywhere.

    tokens   0 . . . . 63 | 64 . . . 127 | 128 . . .        block = 64
    keys of the second block: 64 - reach .. 127 + reach      window = block + 2 * reach
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.encoder import Tokens, sequence_length
from edgelm_export.blocks.kernels import multi_head_attention
from edgelm_export.blocks.precision import as_activation
from edgelm_export.blocks.rotary import Rotary, rotary_tables
from edgelm_export.config import ModelConfig, RopeConfig
from edgelm_export.graph import GraphBuilder

# Blocks shorter than this leave the matrix products too little to do at once.
_SMALLEST_BLOCK = 64


@dataclass(frozen=True)
class Blocks:
    """What the local layers of one call share: which tokens a block takes, and which of them it may see."""

    queries: ir.Value  # int64 [count * block]: token positions, block after block
    keys: ir.Value  # int64 [count * window]
    mask: ir.Value  # int64 [batch * count, window]: 1 for a token of the text
    bias: ir.Value  # [1, 1, block, window]: 0 within reach, minus infinity beyond
    block: ir.Value  # int64 [1]
    window: ir.Value  # int64 [1]
    batch: ir.Value  # int64 [1]
    length: ir.Value  # int64 [1]


@dataclass(frozen=True)
class LocalText:
    """The blocks of texts, and the rotary positions of the layers that read them."""

    blocks: Blocks
    rotary: Rotary


def local_text(g: GraphBuilder, c: ModelConfig, rope: RopeConfig, tokens: Tokens, reach: int) -> LocalText:
    """What local layers with rotary positions share."""
    return LocalText(
        local_blocks(g, tokens, reach), Rotary(rope, *rotary_tables(g, rope, c.head_dim, c.context_length), None)
    )


def local_blocks(g: GraphBuilder, tokens: Tokens, reach: int) -> Blocks:
    """Cuts texts into blocks whose tokens see `reach` tokens on each side."""
    largest = max(reach, _SMALLEST_BLOCK)
    length, one = sequence_length(g, tokens.ids), _whole(g, 1)
    fits = g.op("LessOrEqual", length, _whole(g, largest + 2 * reach))
    block = g.op("Where", fits, length, _whole(g, largest))
    window = g.op("Where", fits, length, _whole(g, largest + 2 * reach))
    before = g.op("Where", fits, _whole(g, 0), _whole(g, reach))
    count = g.op("Div", g.op("Add", length, g.op("Sub", block, one)), block)

    starts = _column(g, g.op("Mul", _range(g, count), block))  # [count, 1]
    inner, outer = _range(g, block), g.op("Sub", _range(g, window), before)  # positions within a block, from its start
    last = g.op("Sub", length, one)
    queries = _flat(g, g.op("Min", g.op("Add", starts, inner), last))
    wanted = _flat(g, g.op("Add", starts, outer))
    keys = g.op("Max", g.op("Min", wanted, last), _whole(g, 0))

    inside = g.op("Cast", g.op("Equal", wanted, keys), to=ir.DataType.INT64)
    mask = g.op("Mul", g.op("Gather", tokens.mask, keys, axis=1), inside)  # [batch, count * window]
    distance = g.op("Abs", g.op("Sub", _column(g, inner), outer))  # [block, window]
    near = g.op("LessOrEqual", distance, _whole(g, reach))
    bias = g.op("Where", near, *(g.constant(np.array(value, np.float32)) for value in (0.0, -np.inf)))
    sizes = [_listed(g, size) for size in (block, window)]
    return Blocks(
        queries=queries,
        keys=keys,
        mask=g.op("Reshape", mask, g.op("Concat", g.constant(np.array([-1], np.int64)), sizes[1], axis=0)),
        bias=as_activation(g, g.op("Unsqueeze", bias, g.constant(np.array([0, 1], np.int64))), ir.DataType.FLOAT),
        block=sizes[0],
        window=sizes[1],
        batch=g.op("Shape", tokens.ids, end=1),
        length=_listed(g, length),
    )


def local_attention(g: GraphBuilder, queries: tuple[ir.Value, ...], blocks: Blocks, c: ModelConfig) -> ir.Value:
    """Attention of query, key and value [batch, sequence, heads * head_dim] within the window -> the same shape."""
    positions = ((blocks.queries, blocks.block), (blocks.keys, blocks.window), (blocks.keys, blocks.window))
    cut = [
        _shaped(g, g.op("Gather", x, rows, axis=1), g.constant(np.array([-1], np.int64)), size, c)
        for x, (rows, size) in zip(queries, positions, strict=True)
    ]
    attended = multi_head_attention(g, cut, blocks.mask, c, blocks.bias)
    whole = _shaped(g, attended, blocks.batch, g.constant(np.array([-1], np.int64)), c)
    start, axis = (g.constant(np.array([n], np.int64)) for n in (0, 1))
    return g.op("Slice", whole, start, blocks.length, axis)


def _shaped(g: GraphBuilder, x: ir.Value, rows: ir.Value, length: ir.Value, c: ModelConfig) -> ir.Value:
    """[..., heads * head_dim] -> [rows, length, heads * head_dim]."""
    return g.op("Reshape", x, g.op("Concat", rows, length, g.constant(np.array([c.query_size], np.int64)), axis=0))


def _whole(g: GraphBuilder, number: int) -> ir.Value:
    return g.constant(np.array(number, np.int64))


def _range(g: GraphBuilder, count: ir.Value) -> ir.Value:
    return g.op("Range", _whole(g, 0), count, _whole(g, 1))


def _column(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Unsqueeze", x, g.constant(np.array([1], np.int64)))


def _listed(g: GraphBuilder, number: ir.Value) -> ir.Value:
    return g.op("Unsqueeze", number, g.constant(np.array([0], np.int64)))


def _flat(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return g.op("Reshape", x, g.constant(np.array([-1], np.int64)))
