"""Multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434, section 2.1), absorbed: heads attend to the latents themselves.

Keys and values are projections of one latent a token. Instead of projecting every latent of the context up to keys, each head's
query is projected down to the latents, and what it gathers of them up to values afterwards: the same numbers, from a cache that
holds one latent and one rotary key a token, which all heads read.

    query head h  [ q_nope @ k_up_proj[h] | q_rope ]    key = value  [ latent | k_rope ]    value head h  gathered latent @ v_up_proj[h]

Each head's two projections are weights of their own in the recipe's format: 16 matrices of 512 x 128 behind each other took 0.38 ms
in int8 and 0.30 in int4 where a batched float product, the only kernel with a matrix for each head, took 0.69 and four times the
memory; in float too they were faster, 0.61.

Canonical names: q_proj, or q_a_proj, q_a_norm and q_b_proj; kv_a_proj, kv_a_norm; heads.{h}.k_up_proj, heads.{h}.v_up_proj; o_proj.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.cache import Step
from edgelm_export.blocks.kernels import rotary_embedding
from edgelm_export.blocks.latent_cache import LatentStep, attention_to_latents
from edgelm_export.blocks.linear import linear, split
from edgelm_export.blocks.norm import rms_norm
from edgelm_export.config import DeepseekConfig
from edgelm_export.graph import GraphBuilder


def latent_attention(g: GraphBuilder, x: ir.Value, c: DeepseekConfig, shared: LatentStep, i: int) -> ir.Value:
    """Causal attention of layer `i`; new latents go into the cache in place: [batch, sequence, hidden_size] -> the same."""
    step = shared.step
    heads, rank, turning = c.num_attention_heads, c.latent.kv_lora_rank, c.latent.qk_rope_head_dim
    source, latent, k_rope = _projected(g, x, c)
    latent = rms_norm(g, latent, "kv_a_norm", rank, c.latent.norm_eps)
    key = g.op("Concat", latent, _turned(g, k_rope, step, i, 1), axis=-1)  # [batch, sequence, kept_dim]
    query = _absorbed_query(g, source, c, step, i)
    attended = attention_to_latents(g, query, key, c, shared, i)
    # Of what each head gathered, the part of rotary keys says nothing.
    gathered = split(g, attended, (rank, turning) * heads)[::2]
    values = [_of_head(g, h, part, "v_up_proj", c.latent.v_head_dim, rank) for h, part in enumerate(gathered)]
    size = heads * c.latent.v_head_dim
    joined = g.op("Concat", *values, axis=-1)
    return g.tap("attention", linear(g, joined, {"o_proj": c.hidden_size}, size, bias=c.attention_output_bias))


def _projected(g: GraphBuilder, x: ir.Value, c: DeepseekConfig) -> tuple[ir.Value, ...]:
    """What queries come from, the latent of keys and values, and the rotary key."""
    m = c.latent
    name, size = ("q_proj", _query_size(c)) if m.q_lora_rank is None else ("q_a_proj", m.q_lora_rank)
    sizes = {name: size, "kv_a_proj": m.kept_dim}
    joined = linear(g, x, sizes, c.hidden_size, bias=c.qkv_bias, group="qkv_proj")
    return split(g, joined, (size, m.kv_lora_rank, m.qk_rope_head_dim))


def _absorbed_query(g: GraphBuilder, source: ir.Value, c: DeepseekConfig, step: Step, i: int) -> ir.Value:
    """Queries against latents: [batch, sequence, heads * kept_dim]."""
    m, heads = c.latent, c.num_attention_heads
    query = source
    if m.q_lora_rank is not None:
        normed = rms_norm(g, source, "q_a_norm", m.q_lora_rank, m.norm_eps)
        query = linear(g, normed, {"q_b_proj": _query_size(c)}, m.q_lora_rank)
    by_head = g.op("Reshape", query, g.constant(np.array([0, 0, heads, m.qk_head_dim], np.int64)))
    joined = g.constant(np.array([0, 0, -1], np.int64))
    still, turning = (
        g.op("Reshape", part, joined) for part in split(g, by_head, (m.qk_nope_head_dim, m.qk_rope_head_dim))
    )
    turned = split(g, _turned(g, turning, step, i, heads), (m.qk_rope_head_dim,) * heads)
    pieces: list[ir.Value] = []
    for h, part in enumerate(split(g, still, (m.qk_nope_head_dim,) * heads)):
        pieces += [_of_head(g, h, part, "k_up_proj", m.kv_lora_rank, m.qk_nope_head_dim), turned[h]]
    return g.op("Concat", *pieces, axis=-1)


def _of_head(g: GraphBuilder, h: int, x: ir.Value, name: str, size: int, in_features: int) -> ir.Value:
    with g.at("heads", h):
        return linear(g, x, {name: size}, in_features)


def _turned(g: GraphBuilder, x: ir.Value, step: Step, i: int, heads: int) -> ir.Value:
    rotary = step.rotaries[i]
    if rotary is None or rotary.positions is None:
        raise TypeError("a latent's rotary part is turned outside the kernel")
    return rotary_embedding(g, x, rotary, rotary.positions, heads)


def _query_size(c: DeepseekConfig) -> int:
    return c.num_attention_heads * c.latent.qk_head_dim
