"""BLOOM (Le Scao et al. 2022, arXiv:2211.05100) and MPT: no positions but a bias on the scores that falls with the distance."""

from __future__ import annotations

from functools import partial

from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.gguf_names import gguf_fused
from edgelm_export.blocks.alibi import alibi_bias
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.decoder_norms import stated_norm
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.mlp import mlp
from edgelm_export.blocks.residual import residual_layer
from edgelm_export.config import GptConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap, joined, name_map, per_layer
from edgelm_export.read_alibi_config import read_bloom_config, read_mpt_config
from edgelm_export.transforms import heads_apart

ENDS = {
    "embed_tokens": "transformer.word_embeddings",
    "embedding_norm": "transformer.word_embeddings_layernorm",
    "final_norm": "transformer.ln_f",
    "lm_head": "lm_head",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "o_proj": "self_attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "up_proj": "mlp.dense_h_to_4h",
    "down_proj": "mlp.dense_4h_to_h",
}
MPT_ENDS = {"embed_tokens": "transformer.wte", "final_norm": "transformer.norm_f", "lm_head": "lm_head"}
MPT_LAYER = {
    "attn_norm": "norm_1",
    "o_proj": "attn.out_proj",
    "mlp_norm": "norm_2",
    "up_proj": "ffn.up_proj",
    "down_proj": "ffn.down_proj",
}


def bloom_names(c: GptConfig) -> NameMap:
    """Queries, keys and values stand head by head."""
    fused = joined("self_attention.query_key_value", c.attention_sizes, heads_apart(c.num_attention_heads))
    return name_map(ENDS | per_layer("transformer.h.{i}.", LAYER | fused))


def mpt_names(c: GptConfig) -> NameMap:
    """All queries, all keys, all values."""
    return name_map(MPT_ENDS | per_layer("transformer.blocks.{i}.", MPT_LAYER | joined("attn.Wqkv", c.attention_sizes)))


def decoder(g: GraphBuilder, c: GptConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    step = cache_inputs(g, c)
    attend = partial(self_attention, step=step, bias=alibi_bias(g, c, step))
    x = decoder_input(g, c)
    x = stated_norm(g, x, "embedding_norm", c) if c.embedding_norm else x
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            x = residual_layer(g, x, c, partial(attend, i=i), mlp)
    decoder_output(g, stated_norm(g, x, "final_norm", c), c)


# What transformers assumes where a config is silent.
USUAL = {"tie_word_embeddings": True, "layer_norm_eps": 1e-5}

BLOOM = Architecture(
    family="bloom",
    model_types={"bloom": USUAL | {"hidden_act": "gelu_new", "attention_bias": True, "mlp_bias": True}},
    read_config=read_bloom_config,
    names={"hf": bloom_names, "gguf": gguf_fused},
    decoder=decoder,
    prefix="transformer.",
)
MPT = Architecture(
    family="mpt",
    model_types={"mpt": USUAL | {"hidden_act": "gelu"}},
    read_config=read_mpt_config,
    names={"hf": mpt_names, "gguf": gguf_fused},
    decoder=decoder,
    prefix="transformer.",
)
