"""Attention over a static cache, of floats or of 8-bit integers.

The kernel that reads integers is made for one query. It takes 0.4 to 0.75 of the float kernel's time for a step, and 2 to 3.3 times as long
for 192 tokens of a prompt (ONNX Runtime 1.32, heads of SmolLM2). So a call with several tokens writes their codes beside it, and
attends to a copy of the layer's cache as floats, by the float kernel. Both ways write the same codes and see the same numbers. Not so a
layer whose cache keeps a window only, for its layout is the kernel's own business.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.cache import Step, cache_scales, step_positions
from edgelm_export.blocks.kernels import group_query_attention, rotary_embedding
from edgelm_export.blocks.linear import split
from edgelm_export.blocks.rotary import Rotary
from edgelm_export.config import ModelConfig
from edgelm_export.graph import GraphBuilder

_LOWEST, _HIGHEST = -128.0, 127.0


def cached_attention(
    g: GraphBuilder,
    queries: Sequence[ir.Value | None],
    c: ModelConfig,
    step: Step,
    i: int,
    *,
    rotary: Rotary | None = None,
    **settings: Any,
) -> tuple[ir.Value, ...]:
    """Causal attention of layer `i`: (output, present key, present value).

    Args:
        queries: query, key and value, or all three packed into the first.
        rotary: positions that queries and keys are still to be turned by.
        settings: as group_query_attention takes them.
    """
    past = [g.input(signature.past(i, kind)) for kind in signature.KINDS]
    scales, keeps_window = cache_scales(g, step, i), step.cache.layers[i].window is not None
    by_kernel = partial(
        group_query_attention,
        *(g, queries, past, step, c),
        rotary=rotary,
        window_cache=keeps_window,
        cache_scales=scales,
        **settings,
    )
    if not scales or keeps_window or not g.provider.branches:
        return by_kernel()
    tokens = g.op("Shape", g.input(signature.INPUT_IDS), start=1, end=2)
    return g.op(
        "If",
        g.op("Equal", g.op("Squeeze", tokens), g.constant(np.array(1, np.int64))),
        outputs=3,
        then_branch=g.inner("single", by_kernel),
        else_branch=g.inner(
            "several", lambda: _by_floats(g, _turned(g, queries, c, step, rotary), past, c, step, scales, settings)
        ),
    )


def _by_floats(
    g: GraphBuilder,
    queries: Sequence[ir.Value],
    past: Sequence[ir.Value],
    c: ModelConfig,
    step: Step,
    scales: Sequence[ir.Value],
    settings: dict[str, Any],
) -> tuple[ir.Value, ...]:
    query, *new = queries
    places = _places(g, c, step)
    present = [
        g.op("ScatterND", buffer, places, _codes(g, x, scale, c))
        for buffer, x, scale in zip(past, new, scales, strict=True)
    ]
    for value in present:
        value.type = ir.TensorType(ir.DataType.INT8)
    none, zero, tokens, positions = (g.constant(np.array([n], np.int64)) for n in (0, 0, 1, 2))
    total = g.op("Unsqueeze", g.op("Cast", step.total_sequence_length, to=ir.DataType.INT64), zero)
    floats = [
        g.op("Mul", g.op("Cast", g.op("Slice", codes, zero, total, positions), to=ir.DataType.FLOAT), scale)
        for codes, scale in zip(present, scales, strict=True)
    ]
    nothing = g.op("Slice", new[0], zero, none, tokens)  # new keys and values are among the floats
    [attended] = group_query_attention(g, (query, nothing, nothing), floats, step, c, writes=False, **settings)
    return attended, *present


def _turned(
    g: GraphBuilder, queries: Sequence[ir.Value | None], c: ModelConfig, step: Step, rotary: Rotary | None
) -> tuple[ir.Value, ...]:
    """Query, key and value by themselves, turned by their positions."""
    query, key, value = queries
    if query is None:
        raise TypeError("attention without a query")
    if key is None or value is None:
        query, key, value = split(g, query, tuple(c.attention_sizes.values()))
    if rotary is not None:
        positions = step_positions(g, step, g.input(signature.INPUT_IDS))
        query = rotary_embedding(g, query, rotary, positions, c.num_attention_heads)
        key = rotary_embedding(g, key, rotary, positions, c.num_key_value_heads)
    return query, key, value


def _codes(g: GraphBuilder, x: ir.Value, scale: ir.Value, c: ModelConfig) -> ir.Value:
    """Keys or values [batch, sequence, heads * head_dim] as the kernel rounds them: int8 [batch, heads, sequence, head_dim]."""
    by_head = g.op("Reshape", x, g.constant(np.array([0, 0, c.num_key_value_heads, c.head_dim], np.int64)))
    steps = g.op("Mul", g.op("Transpose", by_head, perm=[0, 2, 1, 3]), g.op("Reciprocal", scale))
    bounds = (g.constant(np.array(bound, np.float32)) for bound in (_LOWEST, _HIGHEST))
    return g.op("Cast", g.op("Clip", g.op("Round", steps), *bounds), to=ir.DataType.INT8)


def _places(g: GraphBuilder, c: ModelConfig, step: Step) -> ir.Value:
    """Where the new codes go, as row, head and position: int64 [batch, heads, sequence, 3]."""
    ids = g.input(signature.INPUT_IDS)
    axes = g.constant(np.array([1, 3], np.int64))
    positions = g.op("Unsqueeze", step_positions(g, step, ids), axes)  # [batch, 1, sequence, 1]
    heads = g.constant(np.arange(c.num_key_value_heads, dtype=np.int64)[None, :, None, None])
    zero, one = (g.constant(np.array(n, np.int64)) for n in (0, 1))
    batch = g.op("Squeeze", g.op("Shape", ids, start=0, end=1))
    rows = g.op("Unsqueeze", g.op("Range", zero, batch, one), g.constant(np.array([1, 2, 3], np.int64)))
    zeros = g.op("Mul", g.op("Add", positions, heads), zero)  # of the shape of all places
    return g.op("Concat", *(g.op("Add", zeros, part) for part in (rows, heads, positions)), axis=-1)
