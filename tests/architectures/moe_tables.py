"""What may differ from one mixture of experts to the next: columns of partial configs, one of each column making a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.architectures.encoder_tables import Column, each
from tests.architectures.random_configs import ROPE_SCALINGS, Config

_BASE: Config = {
    "hidden_act": "silu",
    "max_position_embeddings": 640,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


def _architecture(name: str) -> Column:
    return ({**_BASE, "architectures": [name]},)


def _heads(*triples: tuple[int, int, int], stated: bool) -> Column:
    """(query heads, key-value heads, width of each): with `stated` the hidden size is another, else it is all heads' width."""
    rows: list[Config] = []
    for heads, shared, width in triples:
        row: Config = {"num_attention_heads": heads, "num_key_value_heads": shared}
        rows.append({**row, "hidden_size": 52, "head_dim": width} if stated else {**row, "hidden_size": heads * width})
    return tuple(rows)


def _ropes(*kinds: str) -> Column:
    return tuple(
        {"rope_theta": theta, "rope_scaling": ROPE_SCALINGS[kind]}
        for kind, theta in zip(kinds, (10000.0, 500000.0, 20000.0), strict=False)
    )


_COMMON: Mapping[str, Column] = {
    "layers": each("num_hidden_layers", 1, 2, 3),
    "vocabulary": each("vocab_size", 104, 128, 161),
    "epsilon": each("rms_norm_eps", 1e-6, 1e-3, 0.02),
    "tied": ({}, *each("tie_word_embeddings", True, False)),
    "ropes": _ropes("default", "linear", "llama3"),
}
_WINDOW: Column = ({}, {"sliding_window": None}, *each("sliding_window", 12, 64))
_APART = _heads((4, 1, 16), (4, 2, 32), (6, 2, 16), (3, 3, 16), stated=True)
_SQUARE = _heads((4, 1, 16), (4, 2, 32), (6, 3, 16), (5, 5, 16), stated=False)


def _counts(experts: str, taken: str = "num_experts_per_tok") -> Column:
    return tuple({experts: count, taken: k} for count, k in ((4, 2), (6, 1), (5, 3), (8, 4)))


TABLES: dict[str, Mapping[str, Column]] = {
    "mixtral": {
        "architecture": _architecture("MixtralForCausalLM"),
        **_COMMON,
        "heads": _APART,
        "inner": each("intermediate_size", 40, 77),
        "counts": _counts("num_local_experts"),
        "window": _WINDOW,
    },
    "qwen2_moe": {
        "architecture": _architecture("Qwen2MoeForCausalLM"),
        **_COMMON,
        "heads": _SQUARE,
        "inner": each("intermediate_size", 72, 50),
        "experts": each("moe_intermediate_size", 40, 77),
        "shared": each("shared_expert_intermediate_size", 24, 96),
        "counts": _counts("num_experts"),
        "normalized": ({}, *each("norm_topk_prob", True, False)),
        "dense": ({}, *each("decoder_sparse_step", 1, 2), *each("mlp_only_layers", [], [0])),
        "bias": ({}, {"qkv_bias": True}),
    },
    "qwen3_moe": {
        "architecture": _architecture("Qwen3MoeForCausalLM"),
        **_COMMON,
        "heads": _APART,
        "inner": each("intermediate_size", 72, 50),
        "experts": each("moe_intermediate_size", 40, 77),
        "counts": _counts("num_experts"),
        "normalized": ({}, *each("norm_topk_prob", True, False)),
        "dense": ({}, *each("decoder_sparse_step", 1, 2), *each("mlp_only_layers", [], [0])),
        "bias": ({}, *each("attention_bias", True, False)),
        "window": ({"use_sliding_window": False}, {"use_sliding_window": True, "sliding_window": 12}),
    },
    "olmoe": {
        "architecture": _architecture("OlmoeForCausalLM"),
        **_COMMON,
        "heads": _SQUARE,
        "inner": each("intermediate_size", 40, 77),
        "counts": _counts("num_experts"),
        "normalized": ({}, *each("norm_topk_prob", True, False)),
        "bias": ({}, *each("attention_bias", True, False)),
    },
    "granitemoe": {
        "architecture": _architecture("GraniteMoeForCausalLM"),
        **_COMMON,
        "heads": _SQUARE,
        "inner": each("intermediate_size", 40, 77),
        "counts": _counts("num_local_experts"),
        "bias": ({}, *each("attention_bias", True, False)),
        "embedding": ({}, *each("embedding_multiplier", 1.0, 12.0)),
        "attention": each("attention_multiplier", 0.25, 0.1),
        "residual": ({}, *each("residual_multiplier", 1.0, 0.22)),
        "logits": ({}, *each("logits_scaling", 1.0, 6.0)),
    },
    "glm4_moe": {
        "architecture": _architecture("Glm4MoeForCausalLM"),
        **_COMMON,
        "heads": _APART,
        "inner": each("intermediate_size", 72, 50),
        "experts": each("moe_intermediate_size", 40, 77),
        "counts": (
            {"n_routed_experts": 4, "num_experts_per_tok": 2},
            {"n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2},
            {"n_routed_experts": 6, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1},
        ),
        "shared": ({}, *each("n_shared_experts", 1, 2)),
        "normalized": ({}, *each("norm_topk_prob", True, False)),
        "scale": ({}, *each("routed_scaling_factor", 1.0, 2.5)),
        "dense": ({}, *each("first_k_dense_replace", 0, 1, 2)),
        "bias": ({}, *each("attention_bias", True, False)),
        "norms": ({}, *each("use_qk_norm", True, False)),
        "partial": ({}, *each("partial_rotary_factor", 0.5)),
    },
    "ernie4_5_moe": {
        "architecture": _architecture("Ernie4_5_MoeForCausalLM"),
        **_COMMON,
        "layers": each("num_hidden_layers", 2, 3),  # transformers 4 loads none without experts
        "heads": _SQUARE,
        "inner": each("intermediate_size", 72, 50),
        "experts": each("moe_intermediate_size", 40, 77),
        "counts": _counts("moe_num_experts", "moe_k"),
        "shared": ({}, *each("moe_num_shared_experts", 1, 2)),
        "dense": (
            {},
            {"moe_layer_start_index": 0, "moe_layer_end_index": -1},
            {"moe_layer_start_index": 0, "moe_layer_end_index": 1, "moe_layer_interval": 2},
        ),
    },
}

_FACTORS = {"short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0, 4.0], "long_factor": [2.0] * 8}
_MSCALES = {"short_mscale": 1.24, "long_mscale": 1.24}
_LONGROPE = {"type": "longrope", "original_max_position_embeddings": 320, **_FACTORS, **_MSCALES}
_YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 80,
}
_WIDTH_16 = tuple({**row, "head_dim": 16} for row in _heads((4, 1, 16), (4, 2, 16), (6, 3, 16), stated=False))

TABLES["phimoe"] = {
    "architecture": _architecture("PhimoeForCausalLM"),
    **_COMMON,
    "heads": _WIDTH_16,
    "ropes": ({"rope_theta": 10000.0}, {"rope_theta": 50000.0, "rope_scaling": _LONGROPE}),
    "inner": each("intermediate_size", 40, 77),
    "counts": tuple({"num_local_experts": count} for count in (2, 4, 5)),
    "jitter": ({}, *each("router_jitter_noise", 0.01, 0.2, 0.5)),
    "bias": ({}, *each("attention_bias", True, False)),
    "head": ({}, *each("lm_head_bias", True, False)),
    "window": _WINDOW,
}
TABLES["gpt_oss"] = {
    "architecture": _architecture("GptOssForCausalLM"),
    **_COMMON,
    "heads": _APART,
    "tied": each("tie_word_embeddings", False),
    "ropes": (
        {"rope_theta": 150000.0, "rope_scaling": {**_YARN, "truncate": False}},
        {"rope_theta": 10000.0, "rope_scaling": {**_YARN, "truncate": True}},
    ),
    "inner": each("intermediate_size", 40, 77),
    "counts": _counts("num_local_experts"),
    "limit": ({}, *each("swiglu_limit", 7.0)),
    "bias": ({}, {"attention_bias": True}),
    "window": each("sliding_window", 12, 64),
    "kinds": ({}, {"layer_types": None}),
}


def moe_base(model_type: str, **values: Any) -> Config:
    """The least config of a type, with `values`."""
    first = {key: value for column in TABLES[model_type].values() for key, value in column[0].items()}
    return {"model_type": model_type, **first, **values}
