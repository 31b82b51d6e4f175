"""Config.json or GGUF metadata in, a complete ModelConfig out. Only this file and the readers beside it know raw keys.

How weights are stored is the affair of checkpoint/quantized: what it understood is gone from the config by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from edgelm.errors import UnsupportedArchitecture
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.checkpoint.quantized import SETTINGS_KEYS, unread_format
from edgelm_export.config import ModelConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.gguf_architectures import gguf_model_type
from edgelm_export.read_gguf_config import gguf_as_config

Config = TypeVar("Config", bound=ModelConfig)


def read_config(
    checkpoint: Checkpoint,
    facts: Mapping[str, Any],
    read: Callable[[ConfigReader], Config],
    context_length: int | None = None,
) -> Config:
    """Reads a model's config.

    Args:
        checkpoint: where the raw keys come from; tensor names decide what GGUF leaves unsaid.
        facts: what this model type takes for granted, used where the raw config is silent.
        read: the family's reader.
        context_length: the context the export is for; None means all the checkpoint allows.

    Raises:
        UnsupportedConfig: keys missing, contradictory or unsupported, all listed at once.
    """
    raw = dict(gguf_as_config(checkpoint) if checkpoint.format == "gguf" else checkpoint.config)
    # An explicit null overrides a fact: Mistral's null window means none.
    reader = ConfigReader({**facts, **raw}, context_length)
    config = read(reader)
    for key in SETTINGS_KEYS:
        reader.get(key)
    if (unread := unread_format(raw)) is not None:
        reader.problem(unread)
    reader.finish()
    notes = [f"config key {key!r} is not known to edgelm and was not used" for key in reader.unread()]
    return replace(config, notes=(*config.notes, *notes))


def model_type_of(checkpoint: Checkpoint) -> str:
    """The model type a checkpoint names.

    Raises:
        UnsupportedArchitecture: it names none.
    """
    key = "general.architecture" if checkpoint.format == "gguf" else "model_type"
    value = checkpoint.config.get(key)
    if not isinstance(value, str) or not value:
        raise UnsupportedArchitecture(
            f"{checkpoint.files[0]}: no {key}, so the architecture is unknown; add it, or take the original checkpoint"
        )
    if checkpoint.format != "gguf":
        return value
    return gguf_model_type(value, checkpoint.config.get(f"{value}.expert_count"))
