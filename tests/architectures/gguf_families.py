"""How llama.cpp's converter stores each model type: its architecture, what it writes of the config, what it does to tensors.

Written down after conversion/*.py of llama.cpp, independent of what the exporter makes of such files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter

from tests.architectures.random_checkpoints import Tensors, head_dim, key_value_heads
from tests.architectures.random_configs import Config


def nothing(writer: GGUFWriter, config: Config) -> None:
    """Of a config without keys of its own."""


def as_they_are(config: Config, tensors: Tensors) -> Tensors:
    """Of tensors that are stored as Hugging Face has them."""
    return tensors


def no_more(config: Config) -> Tensors:
    """Of a checkpoint without tensors that the hub's lacks."""
    return {}


@dataclass(frozen=True)
class Family:
    """What the converter does with one model type.

    Attributes:
        arch: names the tensors.
        metadata: writes keys besides those that every type has.
        tensors: the hub's tensors, by the hub's names, in the layout of the file.
        more: tensors that the hub's checkpoint lacks, by their names in the file.
    """

    arch: MODEL_ARCH
    metadata: Callable[[GGUFWriter, Config], None] = nothing
    tensors: Callable[[Config, Tensors], Tensors] = as_they_are
    more: Callable[[Config], Tensors] = no_more


def in_pairs(config: Config, tensors: Tensors) -> Tensors:
    """Rows of q and k in pairs (j, j + head_dim / 2), the order in which llama.cpp turns Llama's and others.

    head of 8 rows:  0 1 2 3 4 5 6 7  ->  0 4 1 5 2 6 3 7
    """
    heads = {"q_proj": config["num_attention_heads"], "k_proj": key_value_heads(config)}

    def stored(name: str, values: np.ndarray) -> np.ndarray:
        if (count := heads.get(name.split(".")[-2])) is None:
            return values
        order = np.arange(values.shape[0]).reshape(count, 2, -1).transpose(0, 2, 1).ravel()
        return values[order]

    return {name: stored(name, values) for name, values in tensors.items()}


def rope_dimensions(writer: GGUFWriter, config: Config) -> None:
    """How much of a head turns."""
    writer.add_rope_dimension_count(int(head_dim(config) * config.get("partial_rotary_factor", 1.0)))


def llama3_divisors(config: Config) -> Tensors:
    """What llama.cpp divides each rotary frequency by to get Llama 3's scaling."""
    scaling, size = config.get("rope_scaling") or {}, head_dim(config)
    if scaling.get("rope_type") != "llama3":
        return {}
    context, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors: list[float] = []
    for j in range(size // 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (2 * j / size)
        if wavelength < context / high:
            factors.append(1)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            share = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - share) / factor + share))
    return {"rope_freqs.weight": np.array(factors, np.float32)}


_LLAMA = Family(MODEL_ARCH.LLAMA, rope_dimensions, in_pairs, llama3_divisors)

# llama.cpp stores Mistral as Llama.
FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Family(MODEL_ARCH.QWEN2),
    "qwen3": Family(MODEL_ARCH.QWEN3),
}
