"""PEFT adapters with random weights, and the checkpoint that each makes of a base model by plain arithmetic."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_export.checkpoint import open_checkpoint
from tests.export.builders import write_safetensors

Tensors = dict[str, NDArray[np.float32]]

RANK, ALPHA = 4, 6


def adapter_config(**values: Any) -> dict[str, Any]:
    """adapter_config.json as PEFT writes it."""
    config: dict[str, Any] = {
        "auto_mapping": None,
        "base_model_name_or_path": "some/base",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return {**config, **values}


def write_adapter(folder: Path, tensors: Mapping[str, NDArray[Any]], **config: Any) -> Path:
    """An adapter of these tensors, named as in its file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(**config)))
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    return folder


def factors(module: str, shape: tuple[int, int], rank: int = RANK, seed: int = 0) -> Tensors:
    """lora_A and lora_B for a linear layer [out, in], as an adapter's file names them."""
    rng = np.random.default_rng(seed)
    n, k = shape
    return {
        f"base_model.model.{module}.lora_A.weight": rng.normal(0, k**-0.5, (rank, k)).astype(np.float32),
        f"base_model.model.{module}.lora_B.weight": rng.normal(0, 1, (n, rank)).astype(np.float32),
    }


def float_tensors(folder: Path) -> Tensors:
    """All tensors of a checkpoint as float32."""
    return {name: tensor.read() for name, tensor in open_checkpoint(folder).tensors.items()}


def adapt(
    tensors: Tensors, folder: Path, modules: str, *, transposed: bool = False, seed: int = 0, rank: int = RANK
) -> Tensors:
    """Writes an adapter for the modules whose names match; returns the tensors of the merged model.

    Args:
        transposed: weights are [in, out], as GPT-2 keeps them.
    """
    found: Tensors = {}
    merged = dict(tensors)
    for i, name in enumerate(tensors):
        module = name.removesuffix(".weight")
        if module == name or not re.fullmatch(modules, module):
            continue
        shape = tensors[name].shape[:: -1 if transposed else 1]
        pair = factors(module, (shape[0], shape[1]), rank, 1000 * seed + i)
        found |= pair
        a, b = pair.values()
        delta = np.asarray(ALPHA / rank * (b @ a), np.float32)
        merged[name] = tensors[name] + (delta.T if transposed else delta)
    write_adapter(folder, found, r=rank)
    return merged
