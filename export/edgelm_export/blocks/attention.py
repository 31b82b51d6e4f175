"""Attention over the static KV cache: the cache's graph inputs and outputs, and the self-attention layer."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgelm import signature
from edgelm.signature import CacheGeometry
from edgelm_export.blocks.kernels import group_query_attention
from edgelm_export.blocks.linear import linear, split
from edgelm_export.blocks.norm import head_norm
from edgelm_export.blocks.rotary import rotary_tables
from edgelm_export.config import ModelConfig
from edgelm_export.graph import GraphBuilder


@dataclass(frozen=True)
class Step:
    """What one call of a decoder shares between its layers: lengths and rotary tables."""

    cache: CacheGeometry
    seqlens_k: ir.Value
    total_sequence_length: ir.Value
    cos: ir.Value
    sin: ir.Value


def cache_inputs(g: GraphBuilder, c: ModelConfig) -> Step:
    """Declares the inputs of a decoder program."""
    cache = c.cache_geometry(g.provider.activation_dtype)
    g.declare(signature.decoder_inputs(cache))
    cos, sin = rotary_tables(g, c)
    return Step(cache, g.input(signature.SEQLENS_K), g.input(signature.TOTAL_SEQUENCE_LENGTH), cos, sin)


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
    for port, value in zip(signature.decoder_outputs(step.cache, c.vocab_size)[1 + 2 * i :], present, strict=False):
        g.output(port, value)
    return g.tap(
        "attention", linear(g, attended, {"o_proj": c.hidden_size}, c.query_size, bias=c.attention_output_bias)
    )
