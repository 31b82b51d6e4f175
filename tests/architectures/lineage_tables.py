"""What may differ between decoders of Llama's lineage: columns of partial configs, one of each column making a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.architectures.encoder_tables import Column, each
from tests.architectures.random_configs import Config

_BASE: Config = {
    "max_position_embeddings": 640,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}


def _heads(*rows: tuple[int, int, int]) -> Column:
    """(hidden_size, num_attention_heads, num_key_value_heads)."""
    return tuple({"hidden_size": h, "num_attention_heads": q, "num_key_value_heads": kv} for h, q, kv in rows)


def _wide_heads(*rows: tuple[int, int, int, int]) -> Column:
    """(hidden_size, num_attention_heads, num_key_value_heads, head_dim)."""
    return tuple({**column, "head_dim": row[3]} for row in rows for column in _heads(row[:3]))


# Heads of 24 and 40 are no multiples of 16, which the attention kernel would turn itself.
_SQUARE = _heads((64, 4, 2), (48, 3, 1), (96, 4, 4), (80, 5, 1), (128, 2, 2), (240, 6, 2))
_WIDE = _wide_heads((50, 4, 2, 32), (36, 3, 1, 16), (84, 6, 2, 24), (40, 2, 2, 64), (60, 5, 5, 40), (77, 4, 1, 16))
# The same where transformers wants hidden_size to be a multiple of the number of heads.
_EVEN = _wide_heads((52, 4, 2, 32), (36, 3, 1, 16), (84, 6, 2, 24), (40, 2, 2, 64), (60, 5, 5, 40), (72, 4, 1, 16))

_LINEAR: Config = {"rope_type": "linear", "factor": 2.5}
_DYNAMIC: Config = {"rope_type": "dynamic", "factor": 2.0}
# At 60 positions some wavelengths are kept, some blended and some divided.
_LLAMA3: Config = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN: Config = {"rope_type": "yarn", "factor": 10.0, "original_max_position_embeddings": 64}
_OTHER_YARN: Config = {**_YARN, "factor": 4.0, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.3}


def _new(theta: float, scaling: Config | None = None) -> Config:
    return {"rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})}}


def _old(theta: float, scaling: Config | None = None) -> Config:
    return {"rope_theta": theta, "rope_scaling": scaling}


# Every scaling in either spelling.
_ROPE: Column = (
    _old(10000.0),
    _new(500000.0),
    _new(10000.0, _LINEAR),
    _old(10000.0, _DYNAMIC),
    _new(1000.0, _YARN),
    _old(10000.0, _OTHER_YARN),
    _new(10000.0, _LLAMA3),
)
_PLAIN_ROPE: Column = (_old(10000.0), _new(500000.0), _old(300.0))
# transformers 4 takes no other scalings of the first two OLMos, and them in their first spelling.
_OLMO_ROPE: Column = (
    *_PLAIN_ROPE,
    _old(10000.0, {"type": "linear", "factor": 2.5}),
    _old(500.0, {"type": "dynamic", "factor": 2.0}),
)
_BIASES: Column = ({}, {"attention_bias": True}, {"mlp_bias": True}, {"attention_bias": True, "mlp_bias": True})
_ATTENTION_BIAS: Column = ({}, *each("attention_bias", True, False))
_WINDOWS = each("sliding_window", 12, 30, 600)


def _table(class_name: str, heads: Column, **columns: Column) -> Mapping[str, Column]:
    """What a type has of its own, with what differs in all; () takes a column away."""
    usual: dict[str, Any] = {
        "base": ({**_BASE, "architectures": [class_name]},),
        "heads": heads,
        "layers": each("num_hidden_layers", 1, 2, 3),
        "inner": each("intermediate_size", 96, 77, 100),
        "vocabulary": each("vocab_size", 97, 128, 160),
        "epsilon": each("rms_norm_eps", 1e-6, 1e-3, 0.02),
        "tied": each("tie_word_embeddings", False, True),
        "activation": ({}, *each("hidden_act", "silu", "gelu")),
        "rope": _ROPE,
    }
    return usual | columns


def _longrope(pairs: int, original: int, **more: float) -> Config:
    """Two sets of factors that are unlike each other."""
    short = [1.0 + 0.1 * j for j in range(pairs)]
    long = [2.0 + 0.5 * j for j in range(pairs)]
    scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    return _new(10000.0, {**scaling, "original_max_position_embeddings": original, **more})


_PHI3_SIZES: Column = (
    {**_heads((64, 4, 2))[0], **_old(10000.0), "sliding_window": 12},
    {**_heads((48, 3, 1))[0], **_longrope(8, 640)},
    {**_heads((96, 4, 4))[0], **_longrope(12, 64), "original_max_position_embeddings": 64},
    {**_heads((128, 4, 1))[0], **_new(10000.0, {"rope_type": "default", "partial_rotary_factor": 0.75})},
    {**_heads((128, 2, 2))[0], **_longrope(24, 16, partial_rotary_factor=0.75), "original_max_position_embeddings": 16},
    {**_heads((80, 5, 1))[0], **_old(500.0), "partial_rotary_factor": 0.5, "sliding_window": None},
    # Generations cross the length at which the factors change.
    {**_heads((64, 4, 2))[0], **_longrope(8, 48), "original_max_position_embeddings": 48},
)

_FULL, _SLIDING = "full_attention", "sliding_attention"


def _by_kind(full: Config, sliding: Config) -> Config:
    return {"rope_parameters": {_FULL: full, _SLIDING: sliding}}


_DEFAULT = {"rope_type": "default"}
_GEMMA3_ROPE: Column = (
    {},
    {"rope_theta": 20000.0, "rope_local_base_freq": 500.0},
    {"rope_theta": 10000.0, "rope_local_base_freq": 1000.0, "rope_scaling": _LINEAR},
    _by_kind({**_DEFAULT, "rope_theta": 5e4}, {**_DEFAULT, "rope_theta": 3e3}),
    _by_kind({**_LINEAR, "rope_theta": 1e5}, {**_DEFAULT, "rope_theta": 1e4}),
)
_OLMO3_ROPE: Column = (
    {"rope_theta": 500000.0},
    {"rope_theta": 500000.0, "rope_scaling": _YARN},
    _by_kind({**_DEFAULT, "rope_theta": 1e4}, {**_DEFAULT, "rope_theta": 1e4}),
    _by_kind({**_OTHER_YARN, "rope_theta": 1e4}, {**_DEFAULT, "rope_theta": 1e4}),
)


def _local_layers(pattern_key: bool = True) -> Column:
    """How many layers there are, and which of them are local."""
    patterns: Column = ({"num_hidden_layers": 4, "sliding_window_pattern": 3},) if pattern_key else ()
    return (
        {"num_hidden_layers": 3},
        *patterns,
        {"num_hidden_layers": 2, "layer_types": [_FULL, _SLIDING]},
        {"num_hidden_layers": 3, "layer_types": [_SLIDING, _FULL, _SLIDING]},
        {"num_hidden_layers": 1, "layer_types": [_SLIDING]},
    )


_MULTIPLIERS: Column = (
    {},
    {
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.015625,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    {"attention_multiplier": 0.3, "logits_scaling": 0.5},
    {"embedding_multiplier": 0.25, "residual_multiplier": 1.5},
)
_GEMMA_ACTIVATION = each("hidden_act", "gelu_pytorch_tanh", "silu")
_GEMMA2_ACTIVATION: Column = ({}, *each("hidden_activation", "gelu_pytorch_tanh", "silu"))
_GEMMA_SCORES: Column = (
    {},
    {"query_pre_attn_scalar": 16},
    {"query_pre_attn_scalar": 20, "final_logit_softcapping": 2.0},
)
_SOFTCAPS: Column = (
    {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.5},
    {"attn_logit_softcapping": None},
    {"final_logit_softcapping": None},
    {},
)
_GLM_ROPE: Column = (
    _old(10000.0),
    {**_old(500.0), "partial_rotary_factor": 1.0},
    _new(10000.0, {"rope_type": "default", "partial_rotary_factor": 0.25}),
    _new(3000.0, {"rope_type": "default", "partial_rotary_factor": 0.5}),
)
# A quarter of them still is an even number of dimensions.
_GLM_HEADS = _wide_heads((50, 4, 2, 32), (36, 3, 1, 16), (84, 6, 2, 24), (40, 2, 2, 64), (60, 5, 5, 40), (77, 4, 1, 16))

TABLES: Mapping[str, Mapping[str, Column]] = {
    "ministral": _table(
        "MinistralForCausalLM",
        _WIDE,
        windows=(*_WINDOWS, {"sliding_window": 10, "layer_types": [_SLIDING, _FULL]}),
        layers=({"num_hidden_layers": 2},),
    ),
    "granite": _table("GraniteForCausalLM", _SQUARE, multipliers=_MULTIPLIERS, biases=_BIASES),
    "smollm3": _table(
        "SmolLM3ForCausalLM",
        _SQUARE,
        layers=(
            {"num_hidden_layers": 4},
            {"num_hidden_layers": 3, "no_rope_layer_interval": 2},
            {"num_hidden_layers": 2, "no_rope_layers": [0, 1]},
            {"num_hidden_layers": 2, "no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 12},
            {"num_hidden_layers": 2, "no_rope_layers": [0, 0], "sliding_window": 12},
            {
                "num_hidden_layers": 2,
                "layer_types": [_SLIDING, _FULL],
                "use_sliding_window": True,
                "sliding_window": 12,
            },
        ),
        biases=_BIASES,
    ),
    "arcee": _table("ArceeForCausalLM", _SQUARE, biases=_BIASES, activation=({}, *each("hidden_act", "relu2", "silu"))),
    "olmo": _table(
        "OlmoForCausalLM",
        _SQUARE,
        epsilon=(),
        clip=({}, *each("clip_qkv", 0.8, 1.5, None)),
        biases=_ATTENTION_BIAS,
        rope=_OLMO_ROPE,
    ),
    "helium": _table(
        "HeliumForCausalLM",
        _wide_heads((64, 4, 2, 16), (48, 3, 1, 16), (96, 4, 4, 24), (80, 5, 1, 16), (128, 2, 2, 64), (240, 6, 2, 40)),
        biases=_BIASES,
        rope=_PLAIN_ROPE,
    ),
    "seed_oss": _table(
        "SeedOssForCausalLM",
        _WIDE,
        biases=({}, {"attention_bias": False, "attention_out_bias": True}, {"mlp_bias": True}),
    ),
    "phi3": _table("Phi3ForCausalLM", _PHI3_SIZES, rope=()),
    "glm": _table("GlmForCausalLM", _GLM_HEADS, rope=_GLM_ROPE, biases=_ATTENTION_BIAS),
    "glm4": _table("Glm4ForCausalLM", _GLM_HEADS, rope=_GLM_ROPE, biases=_ATTENTION_BIAS),
    "gemma": _table(
        "GemmaForCausalLM", _EVEN, activation=({}, *_GEMMA_ACTIVATION), biases=_ATTENTION_BIAS, rope=_PLAIN_ROPE
    ),
    "gemma2": _table(
        "Gemma2ForCausalLM",
        _EVEN,
        activation=_GEMMA2_ACTIVATION,
        biases=_ATTENTION_BIAS,
        layers=_local_layers(pattern_key=False),
        windows=_WINDOWS,
        scores=_GEMMA_SCORES,
        caps=_SOFTCAPS,
        rope=_PLAIN_ROPE,
    ),
    "gemma3_text": _table(
        "Gemma3ForCausalLM",
        _EVEN,
        activation=_GEMMA2_ACTIVATION,
        biases=_ATTENTION_BIAS,
        layers=(*_local_layers(), {"num_hidden_layers": 6}),
        windows=_WINDOWS,
        scores=_GEMMA_SCORES,
        rope=_GEMMA3_ROPE,
    ),
    "olmo2": _table("Olmo2ForCausalLM", _SQUARE, biases=_ATTENTION_BIAS, rope=_OLMO_ROPE),
    "olmo3": _table(
        "Olmo3ForCausalLM",
        _SQUARE,
        layers=(*_local_layers(pattern_key=False), {"num_hidden_layers": 4}),
        windows=_WINDOWS,
        rope=_OLMO3_ROPE,
        biases=_ATTENTION_BIAS,
    ),
    "exaone4": _table(
        "Exaone4ForCausalLM",
        _wide_heads((52, 4, 2, 32), (36, 3, 1, 16), (84, 6, 2, 24), (40, 2, 2, 64), (60, 5, 5, 40), (77, 4, 1, 16)),
        layers=(*_local_layers(), {"num_hidden_layers": 2, "layer_types": [_FULL, _FULL], "sliding_window": None}),
        windows=_WINDOWS,
    ),
    "cohere": _table(
        "CohereForCausalLM",
        _SQUARE,
        epsilon=({}, *each("layer_norm_eps", 1e-3, 0.02)),
        scale=({}, *each("logit_scale", 0.25, 2.0)),
        norms=({}, *each("use_qk_norm", True, False)),
        biases=_ATTENTION_BIAS,
    ),
    "cohere2": _table(
        "Cohere2ForCausalLM",
        _SQUARE,
        epsilon=({}, *each("layer_norm_eps", 1e-3, 0.02)),
        scale=({}, *each("logit_scale", 0.25, 2.0)),
        layers=(*_local_layers(), {"num_hidden_layers": 4}),
        windows=_WINDOWS,
        biases=_ATTENTION_BIAS,
    ),
    "hunyuan_v1_dense": _table(
        "HunYuanDenseV1ForCausalLM",
        _WIDE,
        biases=_ATTENTION_BIAS,
        rope=(_old(10000.0), _new(3000.0), _old(1000.0, {"rope_type": "dynamic", "alpha": 100.0, "factor": 1.0})),
    ),
    "ministral3": _table(
        "Ministral3ForCausalLM",
        _WIDE,
        windows=({}, *each("sliding_window", 12, None)),
        rope=(
            _new(10000.0, {**_YARN, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}),
            _new(1000.0, {**_YARN, "llama_4_scaling_beta": 0.7, "original_max_position_embeddings": 16}),
            _new(1000.0, {**_OTHER_YARN, "llama_4_scaling_beta": 0.3, "original_max_position_embeddings": 10}),
        ),
    ),
}
