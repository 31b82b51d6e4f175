"""Attention layers: over the static KV cache, and over a whole text at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.cache import Step
from edgelm_export.blocks.cached_attention import cached_attention
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.kernels import group_query_attention, multi_head_attention, rotary_embedding
from edgelm_export.blocks.linear import linear, split
from edgelm_export.blocks.local_attention import LocalText, local_attention
from edgelm_export.blocks.precision import as_activation
from edgelm_export.blocks.rotary import Rotary, WholeText
from edgelm_export.blocks.scaling import clipped
from edgelm_export.config import DecoderConfig, EncoderConfig, ModelConfig
from edgelm_export.graph import GraphBuilder

Needed = TypeVar("Needed")
# What a model does to its queries and keys: (g, query, key, config) -> both.
HeadNorms = Callable[[GraphBuilder, ir.Value, ir.Value, Any], tuple[ir.Value, ir.Value]]


def self_attention(
    g: GraphBuilder,
    x: ir.Value,
    c: DecoderConfig,
    step: Step,
    i: int,
    *,
    norms: HeadNorms | None = None,
    turned_norms: HeadNorms | None = None,
    bias: ir.Value | None = None,
    sinks: ir.Value | None = None,
) -> ir.Value:
    """Causal grouped-query attention of layer `i`; new keys and values go into the cache in place.

    Args:
        norms: of queries and keys, before they turn.
        turned_norms: the same behind it; `step` has to come from cache_inputs with `turned_by_kernel` false.
        bias: added to the scaled scores, [1, heads, sequence, total_sequence_length].
        sinks: one more score for each head, [heads].
    """
    queries, rotary = _turned_queries(g, x, c, step.rotaries[i], norms)
    if turned_norms is not None:
        q, k, v = queries
        queries = (*turned_norms(g, _needed(q), _needed(k), c), v)
    attended, *present = cached_attention(
        g,
        queries,
        c,
        step,
        i,
        rotary=rotary,
        window=c.sliding_windows[i],
        bias=bias,
        sinks=sinks,
        scale=c.attention_scale,
        softcap=c.attention_softcap,
    )
    _kept(g, present, step, i)
    return _projected(g, attended, c)


def plain_self_attention(
    g: GraphBuilder,
    x: ir.Value,
    c: ModelConfig,
    step: Step,
    i: int,
    *,
    bias: ir.Value | None = None,
    scale: float | None = None,
) -> ir.Value:
    """The same with as many key as query heads and positions that are in x already, or in `bias`."""
    queries = (_packed(g, x, c), None, None)
    attended, *present = cached_attention(g, queries, c, step, i, bias=bias, scale=scale)
    _kept(g, present, step, i)
    return _projected(g, attended, c)


def whole_text_attention(
    g: GraphBuilder, x: ir.Value, c: DecoderConfig, text: WholeText, i: int, *, norms: HeadNorms | None = None
) -> ir.Value:
    """The attention of a decoder without a cache, for an encoder: causal only where the model is."""
    queries, rotary = _turned_queries(g, x, c, text.rotaries[i], norms)
    attended, *_ = group_query_attention(
        g,
        queries,
        (None, None),
        text,
        c,
        rotary=rotary,
        window=c.sliding_windows[i],
        causal=c.causal,
        scale=c.attention_scale,
        softcap=c.attention_softcap,
    )
    return _projected(g, attended, c)


def encoder_attention(
    g: GraphBuilder,
    x: ir.Value,
    c: ModelConfig,
    tokens: Tokens,
    bias: ir.Value | None = None,
    scale: float | None = None,
) -> ir.Value:
    """Every token attends to every token of its text.

    Args:
        bias: added to the scaled scores, [1 or batch, 1 or heads, sequence, sequence].
        scale: of the scores; 1 / sqrt(head_dim) by default.
    """
    attended = multi_head_attention(g, _queries(g, x, c), tokens.mask, c, bias, scale)
    return _projected(g, attended, c)


def global_rotary_attention(g: GraphBuilder, x: ir.Value, c: EncoderConfig, text: WholeText, i: int) -> ir.Value:
    """The same with the rotary positions of layer `i`."""
    rotary = _needed(text.rotaries[i])
    if rotary.positions is None:
        queries = (_packed(g, x, c), None, None)
        attended, *_ = group_query_attention(g, queries, (None, None), text, c, rotary=rotary, causal=False)
    else:
        attended = multi_head_attention(g, _turned(g, _queries(g, x, c), c, rotary), text.mask, c)
    return _projected(g, attended, c)


def local_rotary_attention(g: GraphBuilder, x: ir.Value, c: EncoderConfig, text: LocalText) -> ir.Value:
    """Every token attends to those near it, with rotary positions."""
    return _projected(g, local_attention(g, _turned(g, _queries(g, x, c), c, text.rotary), text.blocks, c), c)


def attention_sinks(g: GraphBuilder, c: ModelConfig) -> ir.Value:
    """One learned score for each head, which takes its share of attention and gives nothing (OpenAI 2025, arXiv:2508.10925)."""
    weight = g.weight("sinks.weight", (c.num_attention_heads,))
    return as_activation(g, g.stored(weight.name, "float32", weight.shape, lambda: [weight.read()]))


def _kept(g: GraphBuilder, present: Sequence[ir.Value], step: Step, i: int) -> None:
    """Makes keys and values of layer `i` outputs of the graph."""
    for kind, value in zip(signature.KINDS, present, strict=True):
        g.output(signature.cache_port(signature.present(i, kind), step.cache, i), value)


def _packed(g: GraphBuilder, x: ir.Value, c: ModelConfig) -> ir.Value:
    """Query, key and value beside each other."""
    return linear(g, x, c.attention_sizes, c.hidden_size, bias=c.qkv_bias, group="qkv_proj")


def _queries(g: GraphBuilder, x: ir.Value, c: ModelConfig) -> tuple[ir.Value, ...]:
    return split(g, _packed(g, x, c), tuple(c.attention_sizes.values()))


def _turned_queries(
    g: GraphBuilder, x: ir.Value, c: DecoderConfig, rotary: Rotary | None, norms: HeadNorms | None
) -> tuple[tuple[ir.Value | None, ...], Rotary | None]:
    """Query, key and value as the fused kernel takes them, packed into one where nothing is left to do; and how it shall turn them."""
    by_kernel = rotary is None or rotary.positions is None
    packed = clipped(g, _packed(g, x, c), c.clip_qkv)
    if norms is None and by_kernel:
        return (packed, None, None), rotary
    q, k, v = split(g, packed, tuple(c.attention_sizes.values()))
    if norms is not None:
        q, k = norms(g, q, k, c)
    return ((q, k, v), rotary) if by_kernel else (_turned(g, (q, k, v), c, _needed(rotary)), None)


def _turned(g: GraphBuilder, queries: Sequence[ir.Value], c: ModelConfig, rotary: Rotary) -> tuple[ir.Value, ...]:
    q, k, v = queries
    first = g.constant(np.array([0], np.int64)) if rotary.positions is None else rotary.positions
    q = rotary_embedding(g, q, rotary, first, c.num_attention_heads)
    return q, rotary_embedding(g, k, rotary, first, c.num_key_value_heads), v


def _needed(value: Needed | None) -> Needed:
    if value is None:
        raise TypeError("this layer has no rotary positions, or leaves them to the kernel")
    return value


def _projected(g: GraphBuilder, attended: ir.Value, c: ModelConfig) -> ir.Value:
    return g.tap(
        "attention", linear(g, attended, {"o_proj": c.hidden_size}, c.query_size, bias=c.attention_output_bias)
    )
