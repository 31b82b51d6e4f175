"""Gemma (arXiv:2403.08295), Gemma 2 (2408.00118), Gemma 3 (2503.19786) and GLM-4: from the second on, norms on both sides."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edgelm_export.architectures.llama_kin import DECODER
from edgelm_export.architectures.llama_names import gguf_names, hf_names, joined_gate, transformed_norms
from edgelm_export.architectures.phi3 import GLM_FACTS
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.mlp import gated_mlp
from edgelm_export.blocks.norm import head_norms, rms_norm
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import NameMap
from edgelm_export.read_gemma_config import read_gemma2_config, read_gemma3_config, read_gemma_config
from edgelm_export.transforms import plus_one

BOTH_SIDES = {
    "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
GLM4_SIDES = {
    "attn_post_norm": "post_self_attn_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}

# What transformers assumes where a config is silent.
GEMMA_FACTS = {
    "rope_theta": 10000.0,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
}
GEMMA2_FACTS = GEMMA_FACTS | {
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def gemma_hf_names(c: DecoderConfig) -> NameMap:
    """Norms multiply by 1 + weight; llama.cpp's files keep the sum."""
    return transformed_norms(hf_names(c), plus_one)


def gemma2_hf_names(c: DecoderConfig) -> NameMap:
    """The same with norms on both sides."""
    return transformed_norms(hf_names(c, BOTH_SIDES), plus_one)


def glm4_hf_names(c: DecoderConfig) -> NameMap:
    """The gate and what it gates are one module."""
    return hf_names(c, {**GLM4_SIDES, **joined_gate(c, "mlp.gate_up_proj")})


def glm4_gguf_names(c: DecoderConfig) -> NameMap:
    """The same in llama.cpp's files."""
    return gguf_names(c, joined_gate(c, "ffn_up"))


def decoder(g: GraphBuilder, c: DecoderConfig) -> None:
    """Token ids and cache in, logits and cache out; what attention and MLP add is normed before and behind."""
    attend = partial(self_attention, step=cache_inputs(g, c), norms=head_norms if c.qk_norm else None)
    x = decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = attend(g, _norm(g, x, "attn_norm", c), c, i=i)
            x = g.op("Add", x, _norm(g, h, "attn_post_norm", c))
            h = gated_mlp(g, _norm(g, x, "mlp_norm", c), c)
            x = g.op("Add", x, _norm(g, h, "mlp_post_norm", c))
    decoder_output(g, _norm(g, x, "final_norm", c), c)


def _norm(g: GraphBuilder, x: Value, name: str, c: DecoderConfig) -> Value:
    return rms_norm(g, x, name, c.hidden_size, c.norm_eps)


GEMMA = replace(
    DECODER,
    family="gemma",
    model_types={"gemma": GEMMA_FACTS | {"use_sliding_window": False}},
    names={"hf": gemma_hf_names, "gguf": gguf_names},
    read_config=read_gemma_config,
)

GEMMA2 = replace(
    GEMMA,
    family="gemma2",
    model_types={
        "gemma2": GEMMA2_FACTS
        | {"sliding_window_pattern": 2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    },
    names={"hf": gemma2_hf_names, "gguf": gguf_names},
    read_config=read_gemma2_config,
    decoder=decoder,
)

GEMMA3_FACTS = {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6, "qk_norm": True}
GEMMA3 = replace(
    GEMMA2,
    family="gemma3",
    model_types={"gemma3_text": GEMMA2_FACTS | GEMMA3_FACTS},
    read_config=read_gemma3_config,
)

GLM4 = replace(
    DECODER,
    family="glm4",
    model_types={"glm4": GLM_FACTS},
    names={"hf": glm4_hf_names, "gguf": glm4_gguf_names},
    decoder=decoder,
)
