"""The static KV cache as a decoder program sees it: its graph inputs, and what all layers of one call share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm.providers import Provider
from edgelm.signature import CacheGeometry
from edgelm_export.blocks.encoder import sequence_positions
from edgelm_export.blocks.rotary import Rotary, rotaries
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder


@dataclass(frozen=True)
class Step:
    """What one call of a decoder shares between its layers: lengths, and each layer's rotary positions where there are any."""

    cache: CacheGeometry
    seqlens_k: ir.Value
    total_sequence_length: ir.Value
    rotaries: tuple[Rotary | None, ...] = ()


def cache_geometry(c: Any, provider: Provider, dtype: str | None = None) -> CacheGeometry:
    """The KV cache of a config's decoder program on that provider; `dtype` is what it holds, by default activations as they are."""
    geometry: CacheGeometry = c.cache_geometry(dtype or provider.activation_dtype)
    return geometry if provider.window_cache else geometry.without_windows()


def cache_inputs(g: GraphBuilder, c: DecoderConfig, *, turned_by_kernel: bool = True) -> Step:
    """Declares the inputs of a decoder program; the attention kernel may turn queries and keys itself, or shall not."""
    cache = cache_geometry(c, g.provider, g.recipe.kv_cache)
    g.declare(signature.decoder_inputs(cache))
    seqlens_k, total = g.input(signature.SEQLENS_K), g.input(signature.TOTAL_SEQUENCE_LENGTH)
    step = Step(cache, seqlens_k, total)
    turned = rotaries(
        g,
        c,
        c.ropes,
        lambda _: _long_rows(g),
        lambda: step_positions(g, step, g.input(signature.INPUT_IDS)),
        by_kernel=turned_by_kernel,
    )
    return Step(cache, seqlens_k, total, turned)


def _long_rows(g: GraphBuilder) -> ir.Value:
    """Which rows are longer than the cache's short context, bool [batch, 1]; the runtime knows before a long prompt is all there."""
    rows = g.op("Cast", g.input(signature.LONG_CONTEXT), to=ir.DataType.BOOL)
    return g.op("Unsqueeze", rows, g.constant(np.array([1], np.int64)))


def cache_scales(g: GraphBuilder, step: Step, i: int) -> tuple[ir.Value, ...]:
    """What integers of layer `i` stand for, of keys and of values: float32 [1, num_key_value_heads, 1, head_dim]; none of floats."""
    if step.cache.dtype != signature.INT8:
        return ()
    layer = step.cache.layers[i]
    shape = (1, layer.num_key_value_heads, 1, layer.head_dim)
    ports = [signature.past(i, kind) for kind in layer.buffers]
    return tuple(
        g.stored(f"{port}.scale", "float32", shape, partial(g.recipe.cache_scale, port, shape)) for port in ports
    )


def past_lengths(g: GraphBuilder, step: Step, ids: ir.Value) -> ir.Value:
    """How many tokens of each row the cache holds before the new ones, int64 [batch, 1].

    A row of a first prompt may be shorter than `ids`, the rest of which is padding; nothing stands before it.
    """
    axis, none, last = (g.constant(np.array(n, np.int64)) for n in ([1], 0, -1))
    # The last of the new positions, not their number, which would be on the host where lengths are on a device.
    further = g.op("Gather", sequence_positions(g, ids), last, axis=0)
    past = g.op("Sub", g.op("Cast", step.seqlens_k, to=ir.DataType.INT64), further)  # [batch]
    return g.op("Unsqueeze", g.op("Max", past, none), axis)


def step_positions(g: GraphBuilder, step: Step, ids: ir.Value) -> ir.Value:
    """Positions of the new tokens, int64 [batch, sequence]: they follow what the cache holds."""
    return g.op("Add", past_lengths(g, step, ids), sequence_positions(g, ids))
