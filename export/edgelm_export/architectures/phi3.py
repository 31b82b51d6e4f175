"""Phi-3 (Abdin et al. 2024, arXiv:2404.14219) and GLM: Llama's layers with several projections in one module."""

from __future__ import annotations

from dataclasses import replace

from edgelm_export.architectures.llama_kin import DECODER, PLAIN, WINDOWED
from edgelm_export.architectures.llama_names import gguf_names, hf_names, joined_gate, joined_qkv
from edgelm_export.config import DecoderConfig
from edgelm_export.names import NameMap
from edgelm_export.read_llama_kin_config import read_phi3_config

# What transformers assumes where a config is silent. Neighbours turn together, half of each head.
GLM_FACTS = PLAIN | {
    "partial_rotary_factor": 0.5,
    "interleaved_rotary": True,
    "attention_bias": True,
    "attention_output_bias": False,
    "rms_norm_eps": 1.5625e-7,
}


def phi3_hf_names(c: DecoderConfig) -> NameMap:
    """Query, key and value are one module, and so are the gate and what it gates."""
    return hf_names(c, {**joined_qkv(c, "self_attn.qkv_proj"), **joined_gate(c, "mlp.gate_up_proj")})


def phi3_gguf_names(c: DecoderConfig) -> NameMap:
    """The same in llama.cpp's files."""
    return gguf_names(c, {**joined_qkv(c, "attn_qkv"), **joined_gate(c, "ffn_up")})


def glm_hf_names(c: DecoderConfig) -> NameMap:
    """The gate and what it gates are one module."""
    return hf_names(c, joined_gate(c, "mlp.gate_up_proj"))


def glm_gguf_names(c: DecoderConfig) -> NameMap:
    """The same in llama.cpp's files."""
    return gguf_names(c, joined_gate(c, "ffn_up"))


PHI3 = replace(
    DECODER,
    family="phi3",
    model_types={"phi3": WINDOWED | {"original_max_position_embeddings": 4096}},
    names={"hf": phi3_hf_names, "gguf": phi3_gguf_names},
    read_config=read_phi3_config,
)

GLM = replace(
    DECODER,
    family="glm",
    model_types={"glm": GLM_FACTS},
    names={"hf": glm_hf_names, "gguf": glm_gguf_names},
)
