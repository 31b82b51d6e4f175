"""StarCoder2 (Lozhkov et al. 2024, arXiv:2402.19173), StableLM and Nemotron: Llama's layers with LayerNorms in them."""

from __future__ import annotations

from functools import partial

from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.gguf_names import gguf_apart
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.decoder_norms import own_head_norms, stated_norm
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.mlp import FeedForward, gated_mlp, mlp
from edgelm_export.blocks.residual import residual_layer
from edgelm_export.config import GptConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap, name_map, per_layer, row_of
from edgelm_export.read_starcoder2_config import read_nemotron_config, read_stablelm_config, read_starcoder2_config

ENDS = {"embed_tokens": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"}
ATTENTION = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
}
STARCODER2_NAMES = ENDS | per_layer("model.layers.{i}.", ATTENTION | {"up_proj": "mlp.c_fc", "down_proj": "mlp.c_proj"})
NEMOTRON_NAMES = ENDS | per_layer(
    "model.layers.{i}.", ATTENTION | {"up_proj": "mlp.up_proj", "down_proj": "mlp.down_proj"}
)


def stablelm_names(c: GptConfig) -> NameMap:
    """Each head of queries and keys has a norm of its own."""
    layer = ATTENTION | {name: f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    layer |= {f"q_norm.{head}": f"self_attn.q_layernorm.norms.{head}" for head in range(c.num_attention_heads)}
    layer |= {f"k_norm.{head}": f"self_attn.k_layernorm.norms.{head}" for head in range(c.num_key_value_heads)}
    return name_map(ENDS | per_layer("model.layers.{i}.", layer))


def stablelm_gguf_names(c: GptConfig) -> NameMap:
    """The norms of a layer's heads are the rows of one tensor."""
    q = {
        f"q_norm.{head}": row_of("attn_q_norm", head, c.num_attention_heads, c.head_dim)
        for head in range(c.num_attention_heads)
    }
    k = {
        f"k_norm.{head}": row_of("attn_k_norm", head, c.num_key_value_heads, c.head_dim)
        for head in range(c.num_key_value_heads)
    }
    return gguf_apart({**q, **k})


def decoder(g: GraphBuilder, c: GptConfig, feed_forward: FeedForward = mlp) -> None:
    """Token ids and cache in, logits and cache out."""
    attend = partial(self_attention, step=cache_inputs(g, c), norms=own_head_norms if c.qk_norm else None)
    x = decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            x = residual_layer(g, x, c, partial(attend, i=i), feed_forward)
    decoder_output(g, stated_norm(g, x, "final_norm", c), c)


# What transformers assumes where a config is silent.
USUAL = {"layer_norm_eps": 1e-5, "rope_theta": 10000.0}
IGNORED = {"*.rotary_emb.inv_freq": "computed from rope_theta"}

STARCODER2 = Architecture(
    family="starcoder2",
    model_types={"starcoder2": USUAL | {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"}},
    read_config=read_starcoder2_config,
    names={"hf": lambda c: name_map(STARCODER2_NAMES), "gguf": lambda c: gguf_apart()},
    decoder=decoder,
    prefix="model.",
    ignored=IGNORED,
)
STABLELM = Architecture(
    family="stablelm",
    model_types={"stablelm": USUAL | {"hidden_act": "silu", "partial_rotary_factor": 0.25}},
    read_config=read_stablelm_config,
    names={"hf": stablelm_names, "gguf": stablelm_gguf_names},
    decoder=partial(decoder, feed_forward=gated_mlp),
    prefix="model.",
    ignored=IGNORED,
)
NEMOTRON = Architecture(
    family="nemotron",
    model_types={"nemotron": USUAL | {"hidden_act": "relu2", "partial_rotary_factor": 0.5, "norms_less_one": True}},
    read_config=read_nemotron_config,
    names={"hf": lambda c: name_map(NEMOTRON_NAMES), "gguf": lambda c: gguf_apart()},
    decoder=decoder,
    prefix="model.",
    ignored=IGNORED,
)
