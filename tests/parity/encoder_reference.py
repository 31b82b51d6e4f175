"""Encoders of transformers, major version 4 or 5: a config and a class in, a model with random weights and its answers out."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import AutoConfig

from tests.architectures.encoding import Batch
from tests.architectures.random_configs import Config, older_spelling
from tests.parity.reference import READS_ROPE_PARAMETERS, quiet

# What transformers 4 does not know, or gets wrong: it ties the later head of DeBERTa to the token table by mistake.
_SINCE_5 = {
    "modernbert": {"layer_types", "rope_parameters", "tie_word_embeddings"},
    "deberta": {"legacy"},
    "deberta-v2": {"legacy"},
}

Answers = dict[str, NDArray[np.float32]]


def is_known(config: Config) -> bool:
    """Whether this version of transformers has the class that a config names, and reads all of its keys."""
    later = _SINCE_5.get(config["model_type"], set()) & set(config)
    uneven = config.get("num_hidden_layers", 1) % config.get("num_hidden_groups", 1)  # 4 fails on such an ALBERT
    return hasattr(transformers, config["architectures"][0]) and (READS_ROPE_PARAMETERS or not (later or uneven))


def random_encoder(config: Config, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """The class that the config names, with weights that fit `dtype` and keep every part of it from being trivial."""
    raw = config if READS_ROPE_PARAMETERS else older_spelling(config)
    with quiet(), torch.no_grad():
        model = getattr(transformers, config["architectures"][0])._from_config(
            AutoConfig.for_model(**raw), attn_implementation="eager", dtype=torch.float32
        )
        tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
        for key, parameter in parameters(model).items():
            rng = np.random.default_rng([seed, zlib.crc32(key.encode())])  # the same in every class with this base
            values = _draw(rng, key, tuple(parameter.shape), id(parameter) in tables)
            drawn = torch.from_numpy(values.astype(np.float32))
            parameter.copy_(drawn.to(dtype).float())
    return model.eval()


def parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Every parameter once, under its name in the class without a head if it has one there."""
    prefix = f"{model.base_model_prefix}."
    named = sorted(model.named_parameters(remove_duplicate=False), key=lambda pair: not pair[0].startswith(prefix))
    first = {id(parameter): (name, parameter) for name, parameter in reversed(named)}
    return {name.removeprefix(prefix): parameter for name, parameter in first.values()}


def saved_tensors(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of its checkpoint under the names that transformers writes, which are the hub's."""
    with quiet():
        model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def answers(model: Any, batch: Batch) -> Answers:
    """`last_hidden_state`, `pooler_output` where the class has one, and `logits` where it has a head."""
    feeds = {"input_ids": torch.from_numpy(batch.ids), "attention_mask": torch.from_numpy(batch.mask)}
    if takes_types(model):
        feeds["token_type_ids"] = torch.from_numpy(batch.types)
    with torch.inference_mode():
        base = model.base_model(**feeds)
        head = {} if model.base_model is model else _logits(model(**feeds))
    if type(model).__name__ == "ElectraForPreTraining":  # one logit a token, without an axis of its own
        head = {"logits": head["logits"][..., None]}
    found = {"last_hidden_state": base.last_hidden_state, **head}
    if model.base_model is model and getattr(base, "pooler_output", None) is not None:
        found["pooler_output"] = base.pooler_output
    return {name: values.numpy() for name, values in found.items()}


def takes_types(model: Any) -> bool:
    """Whether there is more than one token type to tell apart."""
    return getattr(model.config, "type_vocab_size", 0) > 1


def first_id(model: Any) -> int:
    """The lowest id a text may hold: where decoders classify they look for the last id that is not padding."""
    return 1 if hasattr(model, "score") else 0


def _logits(output: Any) -> Mapping[str, torch.Tensor]:
    """The logits of whatever head; question answering has them apart, classes with two heads under another name."""
    if "start_logits" in output:
        return {"logits": torch.stack([output.start_logits, output.end_logits], -1)}
    return {"logits": output.prediction_logits if "prediction_logits" in output else output.logits}


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...], is_table: bool) -> NDArray[np.float64]:
    """Activations near 1, attention far from uniform, norms and biases that are missed when they are left out."""
    if "norm" in name.lower():
        return rng.uniform(0.5, 1.5, shape) if name.endswith("weight") else rng.normal(0, 0.3, shape)
    if len(shape) < 2:
        return rng.normal(0, 0.3, shape)
    return rng.normal(0, 1 if is_table else 1.5 / np.sqrt(shape[-1]), shape)
