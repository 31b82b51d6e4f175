"""llama.cpp's architectures: which model type each is, what it calls things, and what its metadata leaves to the code.

Sources: conversion/*.py and src/models/*.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GgufArchitecture:
    """One value of general.architecture.

    Attributes:
        model_type: what Hugging Face calls it.
        keys: our key -> metadata key behind the architecture's name, where they differ from those of other architectures.
        facts: keys of a config that llama.cpp takes for granted; the metadata, where it speaks, goes first.
        wide_heads: as many layers as the one size has whose scores are scaled by hidden_size / heads instead of head_dim.
        mixture: what Hugging Face calls it where the metadata counts experts.
    """

    model_type: str
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    wide_heads: int | None = None
    mixture: str | None = None


_MULTIPLIERS = {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}
_PARALLEL = {"use_parallel_residual": "use_parallel_residual"}
# A file says how many key-value heads there are, and shows by its tensors how many norms.
_FALCON = {"hidden_act": "gelu", "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}
_GELU = {"hidden_act": "gelu_pytorch_tanh"}

# Those that have another name in Hugging Face, or something to say.
_ARCHITECTURES = {
    "arcee": GgufArchitecture("arcee", facts={"hidden_act": "relu2"}),
    "bloom": GgufArchitecture("bloom", facts={"hidden_act": "gelu_new"}),
    "chatglm": GgufArchitecture("glm"),
    "command-r": GgufArchitecture("cohere"),
    "ernie4_5-moe": GgufArchitecture("ernie4_5_moe", keys={"moe_layer_start_index": "leading_dense_block_count"}),
    "falcon": GgufArchitecture("falcon", facts=_FALCON),
    "gemma": GgufArchitecture("gemma", facts=_GELU),
    "gemma2": GgufArchitecture("gemma2", facts={**_GELU, "sliding_window": 4096}, wide_heads=46),
    "gemma3": GgufArchitecture("gemma3_text", facts=_GELU, wide_heads=62),
    "glm4moe": GgufArchitecture("glm4_moe"),
    "gpt-oss": GgufArchitecture("gpt_oss", facts={"rope_scaling": {"truncate": False}}),
    "gpt2": GgufArchitecture("gpt2", facts={"hidden_act": "gelu_new"}),
    "gptneox": GgufArchitecture("gpt_neox", keys=_PARALLEL, facts={"hidden_act": "gelu"}),
    "granite": GgufArchitecture("granite", keys=_MULTIPLIERS),
    "granitemoe": GgufArchitecture("granitemoe", keys=_MULTIPLIERS),
    "hunyuan-dense": GgufArchitecture("hunyuan_v1_dense"),
    "llama": GgufArchitecture("llama", mixture="mixtral"),
    "mistral3": GgufArchitecture("ministral3", keys={"llama_4_scaling_beta": "attention.temperature_scale"}),
    "mpt": GgufArchitecture("mpt", keys={"alibi_bias_max": "attention.max_alibi_bias"}, facts={"hidden_act": "gelu"}),
    "nemotron": GgufArchitecture("nemotron", facts={"hidden_act": "relu2", "norms_less_one": False}),
    "olmo2": GgufArchitecture("olmo2", facts={"use_sliding_window": True}),  # OLMo 3's too
    "phi2": GgufArchitecture("phi", facts={"hidden_act": "gelu_new"}),
    "qwen2moe": GgufArchitecture("qwen2_moe"),
    "qwen3moe": GgufArchitecture("qwen3_moe", facts={"norm_topk_prob": True}),
    "stablelm": GgufArchitecture("stablelm", keys=_PARALLEL),
    "starcoder": GgufArchitecture("gpt_bigcode", facts={**_GELU, "multi_query": True}),
    "starcoder2": GgufArchitecture("starcoder2", facts=_GELU),
}


def gguf_model_type(name: str, experts: Any) -> str:
    """What Hugging Face calls a file's architecture; llama.cpp has one name for some that have experts and some that have none."""
    architecture = gguf_architecture(name)
    return architecture.mixture if experts and architecture.mixture else architecture.model_type


def gguf_architecture(name: str) -> GgufArchitecture:
    """What is known of an architecture; most have the names of Hugging Face and nothing of their own."""
    return _ARCHITECTURES.get(name) or GgufArchitecture(name)
