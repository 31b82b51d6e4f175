"""Falcon (Almazrouei et al. 2023, arXiv:2311.16867): one or few key-value heads, attention and MLP side by side, rotary or ALiBi."""

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
from edgelm_export.read_parallel_config import read_falcon_config
from edgelm_export.transforms import groups_apart

ENDS = {"embed_tokens": "transformer.word_embeddings", "final_norm": "transformer.ln_f", "lm_head": "lm_head"}
LAYER = {"o_proj": "self_attention.dense", "up_proj": "mlp.dense_h_to_4h", "down_proj": "mlp.dense_4h_to_h"}
TWO_NORMS = {"attn_norm": "ln_attn", "mlp_norm": "ln_mlp"}
GGUF_TWO_NORMS = {"attn_norm": "attn_norm_2", "mlp_norm": "attn_norm"}
USUAL_NORMS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def names(c: GptConfig) -> NameMap:
    """Queries, keys and values stand together for each key-value head."""
    apart = groups_apart(c.num_attention_heads, c.num_key_value_heads)
    fused = joined("self_attention.query_key_value", c.attention_sizes, apart)
    norms = TWO_NORMS if c.layer == "parallel" else USUAL_NORMS
    return name_map(ENDS | per_layer("transformer.h.{i}.", LAYER | norms | fused))


def gguf_names(c: GptConfig) -> NameMap:
    """llama.cpp's first norm is the only one there is, or the MLP's."""
    return gguf_fused(c, GGUF_TWO_NORMS if c.layer == "parallel" else {})


def decoder(g: GraphBuilder, c: GptConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    step = cache_inputs(g, c)
    attend = partial(self_attention, step=step, bias=alibi_bias(g, c, step))
    x = decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            x = residual_layer(g, x, c, partial(attend, i=i), mlp)
    decoder_output(g, stated_norm(g, x, "final_norm", c), c)


FALCON = Architecture(
    family="falcon",
    model_types={
        "falcon": {
            "tie_word_embeddings": True,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu",
            "max_position_embeddings": 2048,
            "rope_theta": 10000.0,
        }
    },
    read_config=read_falcon_config,
    names={"hf": names, "gguf": gguf_names},
    decoder=decoder,
    prefix="transformer.",
    ignored={
        "*.rotary_emb.inv_freq": "computed from rope_theta",
        "*.maybe_rotary.inv_freq": "computed from rope_theta",
    },
)
