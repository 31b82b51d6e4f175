"""Configurations that architectures are tried with: tables of values in, contents of config.json files out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

CLASS_NAMES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# What may differ in any model type. Heads: (query heads, key-value heads); None means as many, which Llama may leave out.
COMMON: Mapping[str, Sequence[Any]] = {
    "head_dim": (16, 64, 80, 128),
    "heads": ((4, 1), (4, 2), (4, 4), (6, 2), (3, None)),
    "tie_word_embeddings": (False, True),
    "rms_norm_eps": (1e-6, 1e-3, 0.02),  # the last two are large enough to be missed when they are not applied
    "rope_theta": (10000.0, 1000000.0, 500000),
    "rope": ("default", "linear", "llama3"),
    "rope_spelling": ("rope_theta", "rope_parameters"),
    "intermediate_size": (96, 77, 176, 100),  # three 32s, odd, odd multiples of 16 and 4
    "vocab_size": (97, 128, 160),
    "num_hidden_layers": (1, 2, 3),
}

# What a model type adds. "square": hidden_size is heads * head_dim and the config does not state head_dim.
# Llama's hidden sizes are multiples of every head count, as transformers demands; the stated ones are none of 32.
OWN: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "llama": {
        "hidden_size": ("square", 60, 84, 132),
        "attention_bias": (False, True),
        "mlp_bias": (False, True),
        "hidden_act": ("silu", "silu", "gelu", "gelu_pytorch_tanh"),
    },
    "mistral": {"hidden_size": ("square", 50, 84, 77), "sliding_window": (None, 12, 64)},
    "qwen2": {"hidden_size": ("square",), "window": (None, (12, 1), (12, 0))},
    "qwen3": {"hidden_size": (50, 84, 77), "attention_bias": (False, True), "window": (None, (12, 1))},
}

ROPE_SCALINGS: Mapping[str, Config | None] = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 2.5},
    # Chosen so that at 60 positions some wavelengths are kept, some blended and some divided.
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


_UNCHANGED_KEYS = (
    "tie_word_embeddings",
    "rms_norm_eps",
    "intermediate_size",
    "vocab_size",
    "num_hidden_layers",
    "attention_bias",
    "mlp_bias",
    "hidden_act",
    "sliding_window",
)


@dataclass(frozen=True)
class Case:
    """A configuration under a name that tells what is special about it."""

    name: str
    config: Config


def random_cases(model_type: str, count: int) -> list[Case]:
    """`count` configurations of a model type, the same on every call; every value of its tables is in one of them."""
    tables = {**COMMON, **OWN[model_type]}
    draws = [spread(f"{model_type}.{key}", values, count) for key, values in tables.items()]
    choices = [dict(zip(tables, row, strict=True)) for row in zip(*draws, strict=True)]
    return [Case(f"{model_type}-{i}-{_label(choice)}", _config(model_type, choice)) for i, choice in enumerate(choices)]


def rope_keys(kind: str, theta: float, spelling: str) -> Config:
    """Rotary settings as configs of transformers 5 (`rope_parameters`) or of before (`rope_theta`) spell them."""
    scaling = ROPE_SCALINGS[kind]
    if spelling == "rope_parameters":
        return {"rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})}}
    return {"rope_theta": theta, "rope_scaling": scaling}


def older_spelling(config: Config) -> Config:
    """The same config for transformers 4, which does not know `rope_parameters` and has some of their keys outside."""
    parameters = dict(config.get("rope_parameters") or {})
    if not parameters:
        return config
    rest = {key: value for key, value in config.items() if key != "rope_parameters"}
    if "full_attention" in parameters:
        local = parameters["sliding_attention"]["rope_theta"]
        return older_spelling({**rest, "rope_parameters": parameters["full_attention"], "rope_local_base_freq": local})
    outside = {"rope_theta", "partial_rotary_factor"}
    if parameters["rope_type"] == "longrope":
        outside |= {"original_max_position_embeddings"}
        parameters["type"] = parameters.pop("rope_type")
    rest |= {key: parameters.pop(key) for key in outside & set(parameters)}
    return {**rest, "rope_scaling": None if parameters.get("rope_type") == "default" else parameters}


def base_config(model_type: str, **values: Any) -> Config:
    """A small complete config.json; `values` replace or add keys, and None as in JSON is null."""
    config = {
        "architectures": [CLASS_NAMES[model_type]],
        "model_type": model_type,
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 640,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    return {**config, **values}


def spread(key: str, values: Sequence[Any], count: int) -> list[Any]:
    """Every value about equally often, in an order of its own."""
    if count < len(values):
        raise ValueError(f"{key} has {len(values)} values, so {count} configurations cannot hold them all")
    draw = [values[i % len(values)] for i in range(count)]
    random.Random(key).shuffle(draw)
    return draw


def _config(model_type: str, choice: Mapping[str, Any]) -> Config:
    heads, key_value_heads = choice["heads"]
    square = choice["hidden_size"] == "square"
    values = {key: choice[key] for key in _UNCHANGED_KEYS if key in choice}
    values |= rope_keys(choice["rope"], choice["rope_theta"], choice["rope_spelling"])
    values["num_attention_heads"] = heads
    values["hidden_size"] = heads * choice["head_dim"] if square else choice["hidden_size"]
    if not square:
        values["head_dim"] = choice["head_dim"]
    window = choice.get("window")
    if model_type.startswith("qwen"):
        values["use_sliding_window"] = window is not None
        values["sliding_window"], values["max_window_layers"] = window or (4096, choice["num_hidden_layers"])
    config = base_config(model_type, **values)
    if key_value_heads is None and model_type == "llama":
        del config["num_key_value_heads"]
    else:
        config["num_key_value_heads"] = key_value_heads or heads
    return config


def _label(choice: Mapping[str, Any]) -> str:
    heads, key_value_heads = choice["heads"]
    return f"d{choice['head_dim']}-h{heads}kv{key_value_heads or heads}-{choice['rope']}"
