"""How llama.cpp's converter stores decoders of Llama's lineage, and the configurations they are tried with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter

from tests.architectures.gguf_families import Family, in_pairs, llama3_divisors, rope_dimensions
from tests.architectures.lineage_tables import TABLES
from tests.architectures.random_checkpoints import Tensors, head_dim
from tests.architectures.random_configs import Config

_FULL, _SLIDING = "full_attention", "sliding_attention"
_WRITTEN = {
    "sliding_window": "add_sliding_window",
    "attn_logit_softcapping": "add_attn_logit_softcapping",
    "final_logit_softcapping": "add_final_logit_softcapping",
    "logit_scale": "add_logit_scale",
    "clip_qkv": "add_clamp_kqv",
    "embedding_multiplier": "add_embedding_scale",
    "attention_multiplier": "add_attention_scale",
    "residual_multiplier": "add_residual_scale",
    "logits_scaling": "add_logit_scale",
    "rope_local_base_freq": "add_rope_freq_base_swa",
}


def _keys(*names: str) -> Callable[[GGUFWriter, Config], None]:
    """Writes these keys of the config, where it has them."""

    def write(writer: GGUFWriter, config: Config) -> None:
        for name in names:
            if config.get(name) is not None:
                getattr(writer, _WRITTEN[name])(config[name])

    return write


def _pattern(writer: GGUFWriter, config: Config) -> None:
    """The window, and which layers have it."""
    if config.get("sliding_window") is not None:
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == _SLIDING for kind in config["layer_types"]])


def _each(*steps: Callable[[GGUFWriter, Config], None]) -> Callable[[GGUFWriter, Config], None]:
    def write(writer: GGUFWriter, config: Config) -> None:
        for step in steps:
            step(writer, config)

    return write


def _stored_plus_one(config: Config, tensors: Tensors) -> Tensors:
    """Norms of Gemma."""
    return {
        name: values + np.float32(1) if name.endswith("norm.weight") else values for name, values in tensors.items()
    }


def _olmo(writer: GGUFWriter, config: Config) -> None:
    writer.add_layer_norm_eps(1e-5)
    _keys("clip_qkv")(writer, config)


def _weights_in_pairs(config: Config, tensors: Tensors) -> Tensors:
    """OLMo's converter leaves biases as they are, so a checkpoint with some cannot be stored."""
    assert not any(name.endswith("bias") for name in tensors)
    return in_pairs(config, tensors)


def _phi3(writer: GGUFWriter, config: Config) -> None:
    rope_dimensions(writer, config)
    original = config.get("original_max_position_embeddings", 4096)
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_sliding_window(config.get("sliding_window") or 0)
    if config.get("rope_scaling"):
        scale = config["max_position_embeddings"] / original
        factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        writer.add_rope_scaling_attn_factors(factor)


def _phi3_factors(config: Config) -> Tensors:
    scaling = config.get("rope_scaling") or {}
    return {
        f"rope_factors_{reach}.weight": np.array(scaling[f"{reach}_factor"], np.float32)
        for reach in ("long", "short")
        if f"{reach}_factor" in scaling
    }


def _scaled_base(writer: GGUFWriter, config: Config) -> None:
    """HunYuan's scaling by `alpha` is written as the base that it comes to."""
    alpha, size = (config.get("rope_scaling") or {}).get("alpha"), head_dim(config)
    if alpha is not None:
        writer.add_rope_freq_base(config["rope_theta"] * alpha ** (size / (size - 2)))


def _ministral3(writer: GGUFWriter, config: Config) -> None:
    rope_dimensions(writer, config)
    scaling = config["rope_scaling"]
    writer.add_rope_scaling_yarn_log_mul(scaling["mscale_all_dim"])
    writer.add_attn_temperature_scale(scaling["llama_4_scaling_beta"])


_MULTIPLIERS = _keys("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
_SOFTCAPS = _keys("sliding_window", "attn_logit_softcapping", "final_logit_softcapping")

FAMILIES: Mapping[str, Family] = {
    "arcee": Family(MODEL_ARCH.ARCEE, rope_dimensions, in_pairs, llama3_divisors),
    "cohere": Family(MODEL_ARCH.COMMAND_R, _keys("logit_scale")),
    "cohere2": Family(MODEL_ARCH.COHERE2, _each(_keys("logit_scale", "sliding_window"), rope_dimensions)),
    "exaone4": Family(MODEL_ARCH.EXAONE4, _pattern, more=llama3_divisors),
    "gemma": Family(MODEL_ARCH.GEMMA, tensors=_stored_plus_one),
    "gemma2": Family(MODEL_ARCH.GEMMA2, _SOFTCAPS, _stored_plus_one),
    "gemma3_text": Family(
        MODEL_ARCH.GEMMA3, _keys("sliding_window", "final_logit_softcapping", "rope_local_base_freq"), _stored_plus_one
    ),
    "glm": Family(MODEL_ARCH.CHATGLM, rope_dimensions),
    "glm4": Family(MODEL_ARCH.GLM4, rope_dimensions),
    "granite": Family(MODEL_ARCH.GRANITE, _each(rope_dimensions, _MULTIPLIERS), in_pairs),
    "hunyuan_v1_dense": Family(MODEL_ARCH.HUNYUAN_DENSE, _scaled_base),
    "ministral3": Family(MODEL_ARCH.MISTRAL3, _ministral3, in_pairs),
    "olmo": Family(MODEL_ARCH.OLMO, _olmo, _weights_in_pairs),
    "olmo2": Family(MODEL_ARCH.OLMO2),
    "olmo3": Family(MODEL_ARCH.OLMO2, _pattern),
    "phi3": Family(MODEL_ARCH.PHI3, _phi3, more=_phi3_factors),
    "seed_oss": Family(MODEL_ARCH.SEED_OSS),
    "smollm3": Family(MODEL_ARCH.SMOLLM3, rope_dimensions, in_pairs),
}


def _config(model_type: str, **changes: object) -> Config:
    """The first of each column of a type's tables, in the older spelling of rotary positions, with changes."""
    columns = [column[0] for column in TABLES[model_type].values() if column]
    merged: Config = {"model_type": model_type, "num_hidden_layers": 2, "rms_norm_eps": 1e-5}
    for part in columns:
        merged |= part
    merged |= {"vocab_size": 128, "rope_theta": 10000.0, "tie_word_embeddings": False, **changes}
    return {key: value for key, value in merged.items() if value is not ...}


_WIDE = {"hidden_size": 52, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
_LOCAL = {"num_hidden_layers": 3, "layer_types": [_SLIDING, _FULL, _SLIDING], "sliding_window": 12}
_TIED = {"tie_word_embeddings": True}
_GEMMA = {**_WIDE, **_TIED, "hidden_act": "gelu_pytorch_tanh"}
_GEMMA2 = {**_WIDE, **_TIED, "sliding_window": 12, "query_pre_attn_scalar": 32, "layer_types": ..., "head_dim": 32}

# Of values that float32 holds as they are, for the file keeps no more. By model type and what is special.
CONFIGS: Mapping[str, Config] = {
    "arcee": _config("arcee"),
    "arcee-biases": _config("arcee", attention_bias=True, mlp_bias=True),
    "cohere": _config("cohere", **_TIED, logit_scale=0.25),
    "cohere-norms": _config("cohere", **_TIED, logit_scale=0.25, use_qk_norm=True),
    "cohere2": _config("cohere2", **_TIED, logit_scale=0.25, num_hidden_layers=5, sliding_window=12),
    "exaone4": _config("exaone4", **_LOCAL),
    "exaone4-without-windows": _config("exaone4", sliding_window=None, layer_types=[_FULL, _FULL], num_hidden_layers=2),
    "gemma": _config("gemma", **_GEMMA),
    "gemma2": _config("gemma2", **_GEMMA2, attn_logit_softcapping=1.5, final_logit_softcapping=2.5),
    "gemma3_text": _config("gemma3_text", **_GEMMA2, num_hidden_layers=7, rope_theta=1e6, rope_local_base_freq=10000.0),
    "gemma3_text-linear": _config(
        "gemma3_text",
        **_GEMMA2,
        num_hidden_layers=7,
        rope_theta=1e6,
        rope_local_base_freq=1000.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    "glm": _config("glm", partial_rotary_factor=0.5),
    "glm4": _config("glm4", partial_rotary_factor=0.5),
    "glm4-biases": _config("glm4", partial_rotary_factor=0.5, attention_bias=False),
    "granite": _config(
        "granite",
        embedding_multiplier=12.0,
        attention_multiplier=0.015625,
        residual_multiplier=0.25,
        logits_scaling=8.0,
    ),
    "hunyuan_v1_dense": _config("hunyuan_v1_dense", **_TIED),
    "olmo": _config("olmo", clip_qkv=1.5, attention_bias=False),
    "olmo2": _config("olmo2", attention_bias=False),
    "olmo3": _config("olmo3", **_LOCAL, attention_bias=False),
    "olmo3-yarn": _config("olmo3", **_LOCAL, attention_bias=False, rope_scaling={**_YARN, "attention_factor": 1.25}),
    "phi3": _config("phi3", sliding_window=12),
    "seed_oss": _config("seed_oss"),
    "smollm3": _config("smollm3", num_hidden_layers=5, **_TIED),
    "qwen3-yarn": {
        **_config("seed_oss", rope_scaling={**_YARN, "attention_factor": 1.25}),
        "model_type": "qwen3",
        "hidden_act": "silu",
        "architectures": ["Qwen3ForCausalLM"],
    },
}

_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.125 * j for j in range(8)],
    "long_factor": [2.0 + 0.5 * j for j in range(8)],
}
# The file's float32 is not quite what the config says.
ROUNDED: Mapping[str, Config] = {
    "phi3-longrope": _config("phi3", rope_scaling=_LONGROPE, original_max_position_embeddings=16, sliding_window=None),
    "phi3-short": _config("phi3", rope_scaling=_LONGROPE, original_max_position_embeddings=64, sliding_window=None),
    "hunyuan_v1_dense-alpha": _config(
        "hunyuan_v1_dense", rope_scaling={"type": "dynamic", "alpha": 100.0, "factor": 1.0}
    ),
    "ministral3": _config(
        "ministral3",
        sliding_window=None,
        rope_parameters=...,
        rope_scaling={**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.25},
    ),
    "granite-odd": _config("granite", embedding_multiplier=3.3, residual_multiplier=0.22),
}
