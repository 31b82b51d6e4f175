"""Attention layers over the static KV cache."""

from __future__ import annotations

import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.cache import Step
from edgelm_export.blocks.kernels import group_query_attention
from edgelm_export.blocks.linear import linear, split
from edgelm_export.blocks.norm import head_norm
from edgelm_export.config import ModelConfig
from edgelm_export.graph import GraphBuilder


def self_attention(g: GraphBuilder, x: ir.Value, c: ModelConfig, step: Step, i: int) -> ir.Value:
    """Causal grouped-query attention of layer `i` with rotary positions; new keys and values go into the cache in place."""
    sizes = {"q_proj": c.query_size, "k_proj": c.key_value_size, "v_proj": c.key_value_size}
    packed = linear(g, x, sizes, c.hidden_size, bias=c.qkv_bias, group="qkv_proj")
    queries: tuple[ir.Value | None, ...] = (packed, None, None)
    if c.qk_norm:
        q, k, v = split(g, packed, tuple(sizes.values()))
        q = head_norm(g, q, "q_norm", c.head_dim, c.rms_norm_eps)
        queries = (q, head_norm(g, k, "k_norm", c.head_dim, c.rms_norm_eps), v)
    past = [g.input(signature.past(i, kind)) for kind in signature.KINDS]
    attended, *present = group_query_attention(g, queries, past, step, c, c.sliding_windows[i])
    for kind, value in zip(signature.KINDS, present, strict=True):
        g.output(signature.cache_port(signature.present(i, kind), step.cache), value)
    return g.tap(
        "attention", linear(g, attended, {"o_proj": c.hidden_size}, c.query_size, bias=c.attention_output_bias)
    )
