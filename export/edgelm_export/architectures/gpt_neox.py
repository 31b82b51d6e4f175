"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745), GPT-J, CodeGen and Phi: rotary positions, attention and MLP side by side."""

from __future__ import annotations

from functools import partial

from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.gguf_names import gguf_apart, gguf_fused
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.decoder_norms import shared_head_norms, stated_norm
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.mlp import mlp
from edgelm_export.blocks.residual import residual_layer
from edgelm_export.config import GptConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap, Source, joined, name_map, per_layer
from edgelm_export.read_parallel_config import CODEGEN_PIECES, read_gpt_neox_config, read_gptj_config, read_phi_config
from edgelm_export.transforms import heads_apart

NEOX_ENDS = {
    "embed_tokens": "gpt_neox.embed_in",
    "final_norm": "gpt_neox.final_layer_norm",
    "lm_head": Source("embed_out", also=("lm_head",)),
}
NEOX_LAYER = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "o_proj": "attention.dense",
    "up_proj": "mlp.dense_h_to_4h",
    "down_proj": "mlp.dense_4h_to_h",
}
GPTJ_ENDS = {"embed_tokens": "transformer.wte", "final_norm": "transformer.ln_f", "lm_head": "lm_head"}
CODEGEN_LAYER = {"attn_norm": "ln_1", "o_proj": "attn.out_proj", "up_proj": "mlp.fc_in", "down_proj": "mlp.fc_out"}
GPTJ_LAYER = CODEGEN_LAYER | {name: f"attn.{name}" for name in ("q_proj", "k_proj", "v_proj")}
PHI_NAMES = {
    "embed_tokens": "model.embed_tokens",
    "final_norm": "model.final_layernorm",
    "lm_head": "lm_head",
} | per_layer(
    "model.layers.{i}.",
    {
        "attn_norm": "input_layernorm",
        "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj",
        "v_proj": "self_attn.v_proj",
        "o_proj": "self_attn.dense",
        "q_norm": "self_attn.q_layernorm",
        "k_norm": "self_attn.k_layernorm",
        "up_proj": "mlp.fc1",
        "down_proj": "mlp.fc2",
    },
)


def neox_names(c: GptConfig) -> NameMap:
    """Queries, keys and values stand head by head."""
    fused = joined("attention.query_key_value", c.attention_sizes, heads_apart(c.num_attention_heads))
    return name_map(NEOX_ENDS | per_layer("gpt_neox.layers.{i}.", NEOX_LAYER | fused))


def codegen_names(c: GptConfig) -> NameMap:
    """Queries, values and keys stand in pieces, one for each device of its training."""
    sizes = {name: c.attention_sizes[name] for name in ("q_proj", "v_proj", "k_proj")}
    fused = joined("attn.qkv_proj", sizes, heads_apart(CODEGEN_PIECES))
    return name_map(GPTJ_ENDS | per_layer("transformer.h.{i}.", CODEGEN_LAYER | fused))


def decoder(g: GraphBuilder, c: GptConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    attend = partial(self_attention, step=cache_inputs(g, c), norms=shared_head_norms if c.qk_norm else None)
    x = decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            x = residual_layer(g, x, c, partial(attend, i=i), mlp)
    decoder_output(g, stated_norm(g, x, "final_norm", c), c, bias=c.lm_head_bias)


# What transformers assumes where a config is silent.
USUAL = {"layer_norm_eps": 1e-5, "mlp_bias": True}
BIASED = USUAL | {"attention_bias": True, "rope_theta": 10000.0}
GPTJ_FACTS = USUAL | {"lm_head_bias": True, "hidden_act": "gelu_new"}
MASKS = {"*.attn.bias": "the causal mask", "*.masked_bias": "what stood for masked scores"}

GPT_NEOX = Architecture(
    family="gpt_neox",
    model_types={"gpt_neox": BIASED | {"hidden_act": "gelu", "partial_rotary_factor": 0.25}},
    read_config=read_gpt_neox_config,
    names={"hf": neox_names, "gguf": gguf_fused},
    decoder=decoder,
    prefix="gpt_neox.",
    ignored=MASKS | {"*.attention.bias": "the causal mask", "*.rotary_emb.inv_freq": "computed from rope_theta"},
)
GPTJ = Architecture(
    family="gptj",
    model_types={"gptj": GPTJ_FACTS},
    read_config=read_gptj_config,
    names={"hf": lambda c: name_map(GPTJ_ENDS | per_layer("transformer.h.{i}.", GPTJ_LAYER))},
    decoder=decoder,
    prefix="transformer.",
    ignored=MASKS,
)
CODEGEN = Architecture(
    family="codegen",
    model_types={"codegen": GPTJ_FACTS | {"in_pieces": True}},
    read_config=read_gptj_config,
    names={"hf": codegen_names},
    decoder=decoder,
    prefix="transformer.",
    ignored=MASKS | {"*.attn.causal_mask": "the causal mask"},
)
PHI = Architecture(
    family="phi",
    model_types={"phi": BIASED | {"lm_head_bias": True, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5}},
    read_config=read_phi_config,
    names={"hf": lambda c: name_map(PHI_NAMES), "gguf": lambda c: gguf_apart()},
    decoder=decoder,
    prefix="model.",
    ignored={"*.rotary_emb.inv_freq": "computed from rope_theta"},
)
