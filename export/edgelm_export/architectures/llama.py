"""Llama-like decoders: pre-norm, RMS norm, rotary positions, grouped-query attention, gated MLP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgelm.tasks import SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.attention import self_attention, whole_text_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.encoder_heads import PLAIN_HEADS, last_token_classifier
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.linear import embedding
from edgelm_export.blocks.mlp import FeedForward, gated_mlp
from edgelm_export.blocks.norm import head_norms, rms_norm
from edgelm_export.blocks.rotary import whole_text
from edgelm_export.blocks.scaling import scaled
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap, Source, name_map, per_layer
from edgelm_export.read_decoder_config import read_decoder_config
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


def gguf_names(c: DecoderConfig) -> NameMap:
    """llama.cpp keeps Llama's and Mistral's q and k rows in its own rotary order; Qwen's are as in Hugging Face."""
    if c.model_type != "llama":
        return name_map(GGUF)
    q = Source("attn_q", unpermute_rope(c.num_attention_heads))
    k = Source("attn_k", unpermute_rope(c.num_key_value_heads))
    return name_map(GGUF | per_layer("blk.{i}.", {"q_proj": q, "k_proj": k}))


def decoder(g: GraphBuilder, c: DecoderConfig, mlp: FeedForward = gated_mlp) -> None:
    """Token ids and cache in, logits and cache out."""
    attend = partial(self_attention, step=cache_inputs(g, c), norms=head_norms if c.qk_norm else None)
    decoder_output(g, layers(g, decoder_input(g, c), c, attend, mlp), c)


def encoder(g: GraphBuilder, c: DecoderConfig, tokens: Tokens) -> Value:
    """The same layers over whole texts, for models that were trained to embed them."""
    text = whole_text(g, c, c.ropes, tokens.mask)
    attend = partial(whole_text_attention, text=text, norms=head_norms if c.qk_norm else None)
    return layers(g, scaled(g, embedding(g, tokens.ids, c), c.embedding_scale), c, attend)


def layers(
    g: GraphBuilder, x: Value, c: DecoderConfig, attend: Callable[..., Value], mlp: FeedForward = gated_mlp
) -> Value:
    """All layers and the last norm: [batch, sequence, hidden_size] -> the same."""
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = rms_norm(g, x, "attn_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, scaled(g, attend(g, h, c, i=i), c.residual_scale))
            h = rms_norm(g, x, "mlp_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, scaled(g, mlp(g, h, c), c.residual_scale))
    return rms_norm(g, x, "final_norm", c.hidden_size, c.norm_eps)


LLAMA = Architecture(
    family="llama",
    model_types={
        "llama": {"rope_theta": 10000.0, "use_sliding_window": False},
        "mistral": {"rope_theta": 10000.0, "sliding_window": 4096},
        "qwen2": QWEN | {"qkv_bias": True, "attention_output_bias": False},
        "qwen3": QWEN | {"qk_norm": True},
    },
    names={"hf": lambda c: name_map(HF), "gguf": gguf_names},
    read_config=read_decoder_config,
    decoder=decoder,
    encoder=encoder,
    heads={**PLAIN_HEADS, SEQUENCE_CLASSIFICATION: last_token_classifier},
    head_names=lambda c: name_map({"score": "score"}),
    prefix="model.",
    ignored={"*.rotary_emb.inv_freq": "computed from rope_theta"},
)
