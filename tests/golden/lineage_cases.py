"""The table of goldens of Llama's lineage; cases.py says what a case is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.architectures.random_configs import Config
from tests.golden.golden import Golden

# Epsilons are large enough that a norm without its epsilon, or with another one, is seen.
_COMMON: Config = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 57,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 640,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_EPS = {"rms_norm_eps": 1e-2}
_LAYER_EPS = {"layer_norm_eps": 1e-2}
_THETA = {"rope_theta": 10000.0}
_TIED = {"tie_word_embeddings": True}
_WIDE = {"hidden_size": 50, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
_EVEN = {**_WIDE, "hidden_size": 52}
_LOCAL = {"sliding_window": 12, "layer_types": [_SLIDING, _FULL]}

_OTHER_EPS = {"rms_norm_eps": {"rms_norm_eps": 2e-3}}
# Gemma's embeddings are larger, so are the epsilons that can be seen; and a tied head would only repeat the last token.
_GEMMA_EPS = {"rms_norm_eps": 0.5}
_OTHER_GEMMA_EPS = {"rms_norm_eps": {"rms_norm_eps": 0.05}}
_OTHER_LAYER_EPS = {"layer_norm_eps": {"layer_norm_eps": 2e-3}}
_OTHER_THETA = {"rope_theta": {"rope_theta": 500.0}}
_OTHER_WINDOW = {"window": {"sliding_window": 13}, "its layers": {"layer_types": [_FULL, _SLIDING]}}
_LINEAR = {"rope_type": "linear", "factor": 4.0}
_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}


def lineage_cases() -> tuple[Golden, ...]:
    """Every case of these model types."""
    return (*_pre_norm(), *_phi3(), *_gemma(), *_both_sides(), *_post_norm(), *_cohere())


def _pre_norm() -> tuple[Golden, ...]:
    multipliers = {
        "embedding_multiplier": 1.5,
        "attention_multiplier": 0.125,
        "residual_multiplier": 0.75,
        "logits_scaling": 4.0,
    }
    return (
        _case(
            "ministral",
            "Ministral",
            {**_WIDE, **_EPS, **_THETA, **_LOCAL},
            {**_OTHER_EPS, **_OTHER_THETA, **_OTHER_WINDOW},
        ),
        _case(
            "granite",
            "Granite",
            {**_EPS, **_THETA, **multipliers},
            {**_OTHER_EPS, **_OTHER_THETA, **{key: {key: 2 * value} for key, value in multipliers.items()}},
        ),
        _case(
            "smollm3",
            "SmolLM3",
            {**_EPS, **_THETA, "no_rope_layer_interval": 2},
            {**_OTHER_EPS, **_OTHER_THETA, "its layers": {"no_rope_layers": [0, 1]}},
        ),
        _case("arcee", "Arcee", {**_EPS, **_THETA, "hidden_act": "relu2"}, {**_OTHER_EPS, **_OTHER_THETA}),
        _case("olmo", "Olmo", {**_THETA, "clip_qkv": 0.7}, {**_OTHER_THETA, "clip_qkv": {"clip_qkv": 1.0}}),
        _case(
            "helium",
            "Helium",
            {"hidden_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 24, **_EPS, **_THETA},
            {**_OTHER_EPS, **_OTHER_THETA},
        ),
        _case("seed_oss", "SeedOss", {**_WIDE, **_EPS, **_THETA}, {**_OTHER_EPS, **_OTHER_THETA}),
        _case(
            "hunyuan_v1_dense",
            "HunYuanDenseV1",
            {**_WIDE, **_EPS, **_THETA, "rope_scaling": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
            {**_OTHER_EPS, **_OTHER_THETA, "alpha": {"rope_scaling": None}},
        ),
        _ministral3(),
    )


def _ministral3() -> Golden:
    rope = {**_YARN, "rope_theta": 10000.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.6}
    rope["original_max_position_embeddings"] = 12
    return _case(
        "ministral3",
        "Ministral3",
        {**_WIDE, **_EPS, "rope_parameters": rope},
        {
            **_OTHER_EPS,
            "beta": {"rope_parameters": {**rope, "llama_4_scaling_beta": 0.1}},
            "context": {"rope_parameters": {**rope, "original_max_position_embeddings": 20}},
            "mscale": {"rope_parameters": {**rope, "mscale": 2.0}},
        },
    )


def _phi3() -> tuple[Golden, ...]:
    def longrope(original: int, pairs: int = 8) -> Config:
        short, long = [1.0 + 0.2 * j for j in range(pairs)], [3.0 + 0.5 * j for j in range(pairs)]
        scaling = {"type": "longrope", "short_factor": short, "long_factor": long}
        return {"rope_scaling": scaling, "original_max_position_embeddings": original}

    plain = {"hidden_size": 64, "num_attention_heads": 2, **_EPS, **_THETA, "sliding_window": 12}
    return (
        _case("phi3", "Phi3", {**plain}, {**_OTHER_EPS, **_OTHER_THETA, "window": {"sliding_window": 13}}),
        # The generation crosses the length at which the factors change.
        _case(
            "phi3-longrope",
            "Phi3",
            {**_EPS, **_THETA, **longrope(48)},
            {"rope scaling": {"rope_scaling": None}, "its length": longrope(30)},
        ),
        _case(
            "phi3-partial",
            "Phi3",
            {**_EPS, **_THETA, **_TIED, **longrope(640, 6), "partial_rotary_factor": 0.75},
            {"its length": longrope(16, 6), "no turn": {"partial_rotary_factor": 1.0, "rope_scaling": None}},
        ),
    )


def _gemma() -> tuple[Golden, ...]:
    return (
        _case(
            "gemma",
            "Gemma",
            {**_EVEN, **_GEMMA_EPS, **_THETA, "hidden_act": "gelu_pytorch_tanh"},
            {**_OTHER_GEMMA_EPS, **_OTHER_THETA, "hidden_act": {"hidden_act": "silu"}},
        ),
    )


def _both_sides() -> tuple[Golden, ...]:
    act, scores = {"hidden_activation": "gelu_pytorch_tanh"}, {"query_pre_attn_scalar": 24}
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    gemma2 = {**_EVEN, **_GEMMA_EPS, **_THETA, **act, **scores, **caps, **_LOCAL}
    gemma3 = {**_EVEN, **_GEMMA_EPS, **act, **scores, **_LOCAL, "rope_local_base_freq": 500.0}
    glm = {**_WIDE, **_EPS, **_THETA, "attention_bias": True, "partial_rotary_factor": 0.5}
    other_glm = {**_OTHER_EPS, **_OTHER_THETA, "partial_rotary_factor": {"partial_rotary_factor": 1.0}}
    other_gemma = {**_OTHER_GEMMA_EPS, **_OTHER_WINDOW, "scores": {"query_pre_attn_scalar": 16}}
    other_caps = {key: {key: 5.0} for key in caps}
    return (
        _case("gemma2", "Gemma2", gemma2, {**other_gemma, **_OTHER_THETA, **other_caps}),
        _case(
            "gemma3_text",
            "Gemma3",
            {**gemma3, "rope_theta": 10000.0, "rope_scaling": _LINEAR},
            {
                **other_gemma,
                **_OTHER_THETA,
                "rope scaling": {"rope_scaling": None},
                "local rope": {"rope_local_base_freq": 10000.0},
            },
        ),
        _case("glm", "Glm", glm, other_glm),
        _case("glm4", "Glm4", glm, other_glm),
    )


def _post_norm() -> tuple[Golden, ...]:
    rope = {
        "full_attention": {**_YARN, "rope_theta": 10000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    plain = {"full_attention": rope["sliding_attention"], "sliding_attention": rope["sliding_attention"]}
    return (
        _case("olmo2", "Olmo2", {**_EPS, **_THETA}, {**_OTHER_EPS, **_OTHER_THETA}),
        _case(
            "olmo3",
            "Olmo3",
            {**_EPS, **_LOCAL, "rope_parameters": rope},
            {**_OTHER_EPS, **_OTHER_WINDOW, "rope scaling": {"rope_parameters": plain}},
        ),
        _case(
            "exaone4",
            "Exaone4",
            {**_WIDE, **_EPS, **_THETA, **_LOCAL},
            {**_OTHER_EPS, **_OTHER_THETA, **_OTHER_WINDOW},
        ),
    )


def _cohere() -> tuple[Golden, ...]:
    common = {**_LAYER_EPS, **_THETA, **_TIED, "logit_scale": 0.25}
    sensitive = {**_OTHER_LAYER_EPS, **_OTHER_THETA, "logit_scale": {"logit_scale": 0.5}}
    return (
        _case("cohere", "Cohere", common, sensitive),
        _case("cohere-norms", "Cohere", {**common, "use_qk_norm": True, "attention_bias": True}, sensitive),
        _case("cohere2", "Cohere2", {**common, **_LOCAL}, {**sensitive, **_OTHER_WINDOW}),
    )


def _case(name: str, class_name: str, config: Config, sensitive: Mapping[str, Config]) -> Golden:
    model_type = name.partition("-")[0]
    named: dict[str, Any] = {"architectures": [f"{class_name}ForCausalLM"], "model_type": model_type}
    return Golden(name, {**named, **_COMMON, **config}, sensitive)
