"""Llama-like decoders: pre-norm, RMS norm, rotary positions, grouped-query attention, gated MLP."""

from __future__ import annotations

from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.mlp import gated_mlp
from edgelm_export.blocks.norm import rms_norm
from edgelm_export.config import ModelConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap, Source, name_map, per_layer
from edgelm_export.transforms import unpermute_rope

HF = {"embed_tokens": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"} | per_layer(
    "model.layers.{i}.",
    {
        "attn_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj",
        "v_proj": "self_attn.v_proj",
        "o_proj": "self_attn.o_proj",
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
        "gate_proj": "mlp.gate_proj",
        "up_proj": "mlp.up_proj",
        "down_proj": "mlp.down_proj",
    },
)

GGUF = {
    "embed_tokens": "token_embd",
    "final_norm": "output_norm",
    "lm_head": "output",
    "rope_factors": "rope_freqs",
} | per_layer(
    "blk.{i}.",
    {
        "attn_norm": "attn_norm",
        "mlp_norm": "ffn_norm",
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "q_norm": "attn_q_norm",
        "k_norm": "attn_k_norm",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    },
)


# What transformers assumes where a config is silent.
QWEN = {"rope_theta": 10000.0, "use_sliding_window": False, "max_window_layers": 28}


def gguf_names(c: ModelConfig) -> NameMap:
    """llama.cpp keeps Llama's and Mistral's q and k rows in its own rotary order; Qwen's are as in Hugging Face."""
    if c.model_type != "llama":
        return name_map(GGUF)
    q = Source("attn_q", unpermute_rope(c.num_attention_heads))
    k = Source("attn_k", unpermute_rope(c.num_key_value_heads))
    return name_map(GGUF | per_layer("blk.{i}.", {"q_proj": q, "k_proj": k}))


def decoder(g: GraphBuilder, c: ModelConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    step = cache_inputs(g, c)
    x = decoder_input(g, c)  # [batch, sequence, hidden_size]
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = rms_norm(g, x, "attn_norm", c.hidden_size, c.rms_norm_eps)
            x = g.op("Add", x, self_attention(g, h, c, step, i))
            h = rms_norm(g, x, "mlp_norm", c.hidden_size, c.rms_norm_eps)
            x = g.op("Add", x, gated_mlp(g, h, c))
    decoder_output(g, rms_norm(g, x, "final_norm", c.hidden_size, c.rms_norm_eps), c)


LLAMA = Architecture(
    family="llama",
    model_types={
        "llama": {"rope_theta": 10000.0, "use_sliding_window": False},
        "mistral": {"rope_theta": 10000.0, "sliding_window": 4096},
        "qwen2": QWEN | {"qkv_bias": True, "attention_output_bias": False},
        "qwen3": QWEN | {"qk_norm": True},
    },
    names={"hf": lambda c: name_map(HF), "gguf": gguf_names},
    programs={"decoder": decoder},
    ignored={"*.rotary_emb.inv_freq": "computed from rope_theta"},
)
