"""Decoders with Llama's layers, and what each has of its own: multipliers, layers without positions, names, another norm or MLP."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edgelm_export.architectures.llama import LLAMA, QWEN2, decoder
from edgelm_export.architectures.llama_names import gguf_names, hf_names
from edgelm_export.blocks.mlp import mlp
from edgelm_export.blocks.norm import bare_layer_norm
from edgelm_export.config import DecoderConfig
from edgelm_export.names import NameMap
from edgelm_export.read_llama_kin_config import (
    read_granite_config,
    read_olmo_config,
    read_seed_oss_config,
    read_smollm3_config,
)

# What transformers assumes where a config is silent.
WINDOWED = {"rope_theta": 10000.0, "hidden_act": "silu"}
PLAIN = WINDOWED | {"use_sliding_window": False}

# Nobody trained these to embed texts, so they are decoders only.
DECODER = replace(LLAMA, encoder=None, heads={}, head_names=lambda c: {})

MINISTRAL = replace(DECODER, family="ministral", model_types={"ministral": WINDOWED | {"sliding_window": 4096}})

GRANITE = replace(DECODER, family="granite", model_types={"granite": PLAIN}, read_config=read_granite_config)

SMOLLM3 = replace(
    DECODER,
    family="smollm3",
    model_types={"smollm3": PLAIN | {"rope_theta": 2000000.0, "tie_word_embeddings": True}},
    read_config=read_smollm3_config,
)

ARCEE = replace(
    DECODER,
    family="arcee",
    model_types={"arcee": PLAIN | {"hidden_act": "relu2"}},
    decoder=partial(decoder, mlp=mlp),
)

OLMO = replace(
    DECODER,
    family="olmo",
    model_types={"olmo": PLAIN | {"rms_norm_eps": 1e-5}},
    read_config=read_olmo_config,
    decoder=partial(decoder, norm=bare_layer_norm),
)

HELIUM = replace(
    DECODER,
    family="helium",
    model_types={
        "helium": PLAIN | {"rope_theta": 100000.0, "interleaved_rotary": True, "attention_output_bias": False}
    },
    names={"hf": hf_names},
)


def seed_oss_gguf_names(c: DecoderConfig) -> NameMap:
    """llama.cpp names the second norm by where it stands, not by what it is for."""
    return gguf_names(c, {"mlp_norm": "post_attention_norm"})


SEED_OSS = replace(
    DECODER,
    family="seed_oss",
    model_types={"seed_oss": PLAIN | {"head_dim": 128, "attention_bias": True, "attention_output_bias": False}},
    names={**QWEN2.names, "gguf": seed_oss_gguf_names},
    read_config=read_seed_oss_config,
)
