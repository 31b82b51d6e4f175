"""Disentangled attention (He et al. 2020, arXiv:2006.03654; log buckets: 2021, arXiv:2111.09543).

With R a table of vectors for distances and r its row for i - j, the score of query i and key j is

    (q_i . k_j + q_i . K_r + Q_r . k_j) * scale        K = R @ pos_k_proj + bias, Q = R @ pos_q_proj + bias

K and Q depend on weights alone: the exporter computes them, and the package stores those rows that a text can ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.encoder import Tokens, sequence_length, sequence_positions
from edgelm_export.blocks.kernels import multi_head_attention
from edgelm_export.blocks.linear import linear, lookup_rows, split
from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import DebertaConfig
from edgelm_export.graph import GraphBuilder


@dataclass(frozen=True)
class Relative:
    """What one call shares between its layers. Rows stand for buckets -n to n of distances, all that a text can ask for."""

    table: Callable[[], NDArray[np.float64]]  # R by bucket, [rows, hidden_size]
    rows: int
    asked: ir.Value  # the rows of this call's distances, int64 [asked]
    index: ir.Value  # which of them belongs to i - j, int32 [batch, heads, sequence, sequence]


def distance_buckets(c: DebertaConfig) -> NDArray[np.int64]:
    """The bucket of each distance i - j from -(context_length - 1) to context_length - 1; that of -d is the negative of d's.

    Near distances have a bucket each; with `position_buckets`, those beyond half as many share theirs by their logarithm.
    What lies beyond the table counts as its edge. Rounded to float32 where transformers is, for the ceiling asks for the
    last bit.
    """
    distances, span = np.arange(1 - c.context_length, c.context_length), c.position_buckets or c.max_relative_positions
    if c.position_buckets:
        near = c.position_buckets // 2
        far, widest = (
            np.log(np.float32(n / near).astype(np.float64)).astype(np.float32)
            for n in (np.maximum(np.abs(distances), near), c.max_relative_positions - 1)
        )
        wide = np.ceil(far / widest * np.float32(near - 1)).astype(np.int64) + near
        distances = np.where(np.abs(distances) <= near, distances, np.sign(distances) * wide)
    return np.clip(distances, -span, span)


def relative_positions(g: GraphBuilder, c: DebertaConfig, tokens: Tokens) -> Relative | None:
    """Rows and index of a call's distances; None where attention asks for no positions."""
    if not c.position_terms:
        return None
    buckets = distance_buckets(c)
    most = int(buckets[-1])
    by_distance = g.constant(buckets, "distance_buckets")
    zeroth, middle, one = (g.constant(np.array(n, np.int64)) for n in (c.context_length - 1, most, 1))
    # Buckets grow with the distance, so a text asks for a range of them, as far as its length reaches.
    farthest = g.op("Sub", sequence_length(g, tokens.ids), one)
    reach = g.op("Gather", by_distance, g.op("Add", zeroth, farthest))
    asked = g.op("Range", g.op("Sub", middle, reach), g.op("Add", g.op("Add", middle, reach), one), one)
    bucket = g.op("Gather", by_distance, g.op("Add", zeroth, _distances(g, tokens)))
    index = _for_each_head(g, g.op("Add", bucket, reach), c, tokens)
    return Relative(_table(g, c, most), 2 * most + 1, asked, index)


def disentangled_attention(
    g: GraphBuilder, packed: ir.Value, c: DebertaConfig, tokens: Tokens, relative: Relative | None
) -> ir.Value:
    """Attention of query, key and value packed [batch, sequence, 3 * heads * head_dim]."""
    q, k, v = split(g, packed, (c.query_size,) * 3)
    bias = None if relative is None else _position_scores(g, q, k, c, relative)
    attended = multi_head_attention(g, (q, k, v), tokens.mask, c, bias, c.attention_scale)
    return g.tap("attention", linear(g, attended, {"o_proj": c.hidden_size}, c.query_size, bias=True))


def packed_queries(g: GraphBuilder, x: ir.Value, c: DebertaConfig) -> ir.Value:
    """Query, key and value beside each other, from a projection each."""
    sizes = {name: c.query_size for name in ("q_proj", "k_proj", "v_proj")}
    return linear(g, x, sizes, c.hidden_size, bias=True, group="qkv_proj")


def packed_queries_of_one(g: GraphBuilder, x: ir.Value, c: DebertaConfig) -> ir.Value:
    """The same from one projection; keys have no bias."""
    packed = linear(g, x, {"qkv_proj": 3 * c.query_size}, c.hidden_size)
    q, v = (g.weight(f"attention.{name}", (c.query_size,)) for name in ("q_bias", "v_bias"))
    none = np.zeros(c.query_size, np.float32)
    bias = g.stored(g.name("qkv_proj.bias"), "float32", (3 * c.query_size,), lambda: [q.read(), none, v.read()])
    return g.op("Add", packed, as_activation(g, bias))


def _distances(g: GraphBuilder, tokens: Tokens) -> ir.Value:
    """i - j, int64 [sequence, sequence]."""
    positions = sequence_positions(g, tokens.ids)
    column, row = (g.constant(np.array([n], np.int64)) for n in (0, 1))
    return g.op("Sub", g.op("Unsqueeze", positions, row), g.op("Unsqueeze", positions, column))


def _for_each_head(g: GraphBuilder, index: ir.Value, c: DebertaConfig, tokens: Tokens) -> ir.Value:
    """[sequence, sequence] -> [batch, heads, sequence, sequence] in 32 bits: GatherElements wants an index as large as its result."""
    batch, length = (g.op("Shape", tokens.ids, start=axis, end=axis + 1) for axis in (0, 1))
    heads = g.constant(np.array([c.num_attention_heads], np.int64))
    shape = g.op("Concat", batch, heads, length, length, axis=0)
    return g.op("Expand", g.op("Cast", index, to=ir.DataType.INT32), shape)


def _table(g: GraphBuilder, c: DebertaConfig, most: int) -> Callable[[], NDArray[np.float64]]:
    """R's rows for buckets -most to most, normed where the model norms it; read when they are asked for."""
    span = c.position_buckets or c.max_relative_positions
    table = g.weight("relative_embeddings.weight", (2 * span, c.hidden_size))
    norm = [g.weight(f"relative_norm.{leaf}", (c.hidden_size,)) for leaf in ("weight", "bias") if c.norm_rel_ebd]
    rows = np.clip(np.arange(-most, most + 1) + span, 0, 2 * span - 1)

    def read() -> NDArray[np.float64]:
        x = table.read()[rows].astype(np.float64)
        if norm:
            x = x - x.mean(-1, keepdims=True)
            x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + c.layer_norm_eps)
            x = x * norm[0].read() + norm[1].read()
        return x

    return read


def _position_scores(g: GraphBuilder, q: ir.Value, k: ir.Value, c: DebertaConfig, relative: Relative) -> ir.Value:
    """The scores that positions add, [batch, heads, sequence, sequence].

    Every query meets every row asked for, then the index picks: [i, row] -> [i, j]. Keys meet the rows in reverse, so that
    the same index gives [j, row] -> [j, i].
    """
    scores: list[ir.Value] = []
    if "c2p" in c.position_terms:
        rows = _position_rows(g, "pos_k_proj", c, relative, bias=c.pos_key_bias)
        scores.append(_picked(g, q, rows, c, relative))
    if "p2c" in c.position_terms:
        rows = _position_rows(g, "pos_q_proj", c, relative, bias=True, step=-1)
        # Gathering along the last axis and turning the result takes as long as gathering along the other, and half as
        # long when something else fills the cache.
        scores.append(g.op("Transpose", _picked(g, k, rows, c, relative), perm=[0, 1, 3, 2]))
    return scores[0] if len(scores) == 1 else g.op("Add", *scores)


def _picked(g: GraphBuilder, x: ir.Value, rows: ir.Value, c: DebertaConfig, relative: Relative) -> ir.Value:
    """Queries or keys times their rows: [batch, heads, sequence, sequence]."""
    split_heads = g.constant(np.array([0, 0, c.num_attention_heads, c.head_dim], np.int64))
    vectors = g.op("Transpose", g.op("Reshape", x, split_heads), perm=[0, 2, 1, 3])
    by_row = g.op("MatMul", vectors, rows)  # [batch, heads, sequence, asked]
    return g.op("GatherElements", by_row, relative.index, axis=-1)


def _position_rows(
    g: GraphBuilder, name: str, c: DebertaConfig, relative: Relative, *, bias: bool, step: int = 1
) -> ir.Value:
    """The rows asked for of R, projected and scaled: [heads, head_dim, asked]. Stored as exactly as the projections of content."""
    projection = g.weight(f"{name}.weight", (c.query_size, c.hidden_size))
    added = g.weight(f"{name}.bias", (c.query_size,)) if bias else None

    def projected(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        # In float64, so that a float32 of the result depends on no library's order of summation.
        x = relative.table()[::step] @ weight.T.astype(np.float64)
        return ((x if added is None else x + added.read()) * c.attention_scale).astype(np.float32)

    stored = replace(projection, name=g.name(f"{name}.rows"), shape=(relative.rows, c.query_size), transform=projected)
    form = g.recipe.format_for(g.name("qkv_proj")).fit(c.query_size, gathered=True)
    rows = lookup_rows(g, relative.asked, stored.name, stored, form)
    heads = g.op("Reshape", rows, g.constant(np.array([0, c.num_attention_heads, c.head_dim], np.int64)))
    return g.op("Transpose", heads, perm=[1, 2, 0])
