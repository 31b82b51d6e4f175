"""Attention layers: over the static KV cache, and over a whole text at once."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.cache import Step
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.kernels import (
    FUSED_ROTARY_MULTIPLE,
    group_query_attention,
    multi_head_attention,
    rotary_embedding,
)
from edgelm_export.blocks.linear import linear, split
from edgelm_export.blocks.local_attention import LocalText, local_attention
from edgelm_export.blocks.norm import head_norm
from edgelm_export.blocks.rotary import WholeText
from edgelm_export.config import DecoderConfig, EncoderConfig, ModelConfig
from edgelm_export.graph import GraphBuilder


def self_attention(g: GraphBuilder, x: ir.Value, c: DecoderConfig, step: Step, i: int) -> ir.Value:
    """Causal grouped-query attention of layer `i` with rotary positions; new keys and values go into the cache in place."""
    past = [g.input(signature.past(i, kind)) for kind in signature.KINDS]
    attended, *present = group_query_attention(g, _rotary_queries(g, x, c), past, step, c, window=c.sliding_windows[i])
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
    past = [g.input(signature.past(i, kind)) for kind in signature.KINDS]
    queries = (_packed(g, x, c), None, None)
    attended, *present = group_query_attention(g, queries, past, step, c, bias=bias, scale=scale)
    _kept(g, present, step, i)
    return _projected(g, attended, c)


def whole_text_attention(g: GraphBuilder, x: ir.Value, c: DecoderConfig, text: WholeText, i: int) -> ir.Value:
    """The same attention without a cache, for an encoder: causal only where the model is."""
    attended, *_ = group_query_attention(
        g, _rotary_queries(g, x, c), (None, None), text, c, window=c.sliding_windows[i], causal=c.causal
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


def global_rotary_attention(g: GraphBuilder, x: ir.Value, c: EncoderConfig, text: WholeText) -> ir.Value:
    """The same with rotary positions."""
    if c.head_dim % FUSED_ROTARY_MULTIPLE == 0:
        attended, *_ = group_query_attention(g, (_packed(g, x, c), None, None), (None, None), text, c, causal=False)
    else:
        attended = multi_head_attention(g, _rotated(g, x, c, text.cos, text.sin), text.mask, c)
    return _projected(g, attended, c)


def local_rotary_attention(g: GraphBuilder, x: ir.Value, c: EncoderConfig, text: LocalText) -> ir.Value:
    """Every token attends to those near it, with rotary positions."""
    return _projected(g, local_attention(g, _rotated(g, x, c, text.cos, text.sin), text.blocks, c), c)


def _kept(g: GraphBuilder, present: Sequence[ir.Value], step: Step, i: int) -> None:
    """Makes keys and values of layer `i` outputs of the graph."""
    for kind, value in zip(signature.KINDS, present, strict=True):
        g.output(signature.cache_port(signature.present(i, kind), step.cache), value)


def _packed(g: GraphBuilder, x: ir.Value, c: ModelConfig) -> ir.Value:
    """Query, key and value beside each other."""
    sizes = {"q_proj": c.query_size, "k_proj": c.key_value_size, "v_proj": c.key_value_size}
    return linear(g, x, sizes, c.hidden_size, bias=c.qkv_bias, group="qkv_proj")


def _queries(g: GraphBuilder, x: ir.Value, c: ModelConfig) -> tuple[ir.Value, ...]:
    return split(g, _packed(g, x, c), (c.query_size, c.key_value_size, c.key_value_size))


def _rotated(g: GraphBuilder, x: ir.Value, c: ModelConfig, cos: ir.Value, sin: ir.Value) -> tuple[ir.Value, ...]:
    q, k, v = _queries(g, x, c)
    return rotary_embedding(g, q, cos, sin), rotary_embedding(g, k, cos, sin), v


def _rotary_queries(g: GraphBuilder, x: ir.Value, c: DecoderConfig) -> tuple[ir.Value | None, ...]:
    """Query, key and value as the fused kernel takes them: packed into one, or apart where heads are normed."""
    if not c.qk_norm:
        return _packed(g, x, c), None, None
    q, k, v = _queries(g, x, c)
    q = head_norm(g, q, "q_norm", c.head_dim, c.rms_norm_eps)
    return q, head_norm(g, k, "k_norm", c.head_dim, c.rms_norm_eps), v


def _projected(g: GraphBuilder, attended: ir.Value, c: ModelConfig) -> ir.Value:
    return g.tap(
        "attention", linear(g, attended, {"o_proj": c.hidden_size}, c.query_size, bias=c.attention_output_bias)
    )
