"""The only reader of raw config keys: config.json or GGUF metadata in, a complete ModelConfig out.

What stands in the way is collected and raised as one error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgelm.errors import UnsupportedArchitecture, UnsupportedConfig
from edgelm_export.blocks.activations import ACTIVATIONS
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.config import ModelConfig, RopeConfig
from edgelm_export.read_gguf_config import gguf_as_config

# Keys that describe training, storage or Python classes and leave the forward pass alone.
_IRRELEVANT = frozenset(
    " ".join(
        (
            "architectures attention_dropout auto_map bos_token_id eos_token_id pad_token_id torch_dtype dtype use_cache initializer_range",
            "transformers_version pretraining_tp _name_or_path name_or_path model_type is_llama_config rope_interleaved id2label label2id",
            "output_attentions output_hidden_states return_dict max_window_layers embd_pdrop resid_pdrop hidden_dropout classifier_dropout",
            "attn_implementation _attn_implementation _attn_implementation_autoset chunk_size_feed_forward is_encoder_decoder problem_type",
            "ignore_keys_at_rope_validation transformers.js_config unsloth_fixed unsloth_version",
        )
    ).split()
)


def read_config(checkpoint: Checkpoint, facts: Mapping[str, Any], context_length: int | None = None) -> ModelConfig:
    """Reads a decoder's config.

    Args:
        checkpoint: where the raw keys come from; tensor names decide what GGUF leaves unsaid.
        facts: what this model type takes for granted, used where the raw config is silent.
        context_length: the context the export is for; None means all the checkpoint allows.

    Raises:
        UnsupportedConfig: keys missing, contradictory or unsupported, all listed at once.
    """
    raw = dict(gguf_as_config(checkpoint) if checkpoint.format == "gguf" else checkpoint.config)
    reader = _Reader({**facts, **raw})  # an explicit null overrides a fact: Mistral's null window means none
    hidden_size, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    layers = reader.size("num_hidden_layers")
    limit = reader.size("max_position_embeddings")
    if context_length is not None and not 1 <= context_length <= limit:
        reader.problem(f"context length {context_length} is outside 1..{limit} (max_position_embeddings)")
    config = ModelConfig(
        model_type=str(raw.get("model_type")),
        vocab_size=reader.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=reader.size("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=reader.size("num_key_value_heads", heads),
        head_dim=reader.size("head_dim", _head_dim(reader, hidden_size, heads)),
        context_length=context_length or limit,
        rms_norm_eps=reader.number("rms_norm_eps"),
        hidden_act=reader.one_of("hidden_act", ACTIVATIONS),
        rope=_read_rope(reader, limit),
        tie_word_embeddings=reader.flag("tie_word_embeddings"),
        qkv_bias=reader.flag("qkv_bias") or reader.flag("attention_bias"),
        attention_output_bias=reader.flag("attention_output_bias", reader.flag("attention_bias")),
        mlp_bias=reader.flag("mlp_bias"),
        qk_norm=reader.flag("qk_norm"),
        sliding_windows=_read_windows(reader, layers),
    )
    _check_heads(reader, config)
    reader.finish()
    return _with_notes(config, reader.unread())


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
    return value


class _Reader:
    """Hands out raw values and collects what is wrong with them."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self._read: set[str] = set()
        self._problems: list[str] = []

    def get(self, key: str) -> Any:
        self._read.add(key)
        return self._raw.get(key)

    def problem(self, text: str) -> None:
        if text not in self._problems:
            self._problems.append(text)

    def size(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            self.problem(
                f"{key} is missing" if value is None else f"{key} is {value!r}, expected a whole number from 1"
            )
            return 1
        return value

    def number(self, key: str, default: float | None = None, source: Mapping[str, Any] | None = None) -> float:
        value = self.get(key) if source is None else source.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            self.problem(f"{key} is missing" if value is None else f"{key} is {value!r}, expected a positive number")
            return 1.0
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            self.problem(f"{key} is {value!r}, expected true or false")
            return False
        return value

    def one_of(self, key: str, known: Mapping[str, Any]) -> str:
        value = self.get(key)
        if value not in known:
            self.problem(f"{key} {value!r} is not supported (known: {', '.join(sorted(known))})")
            return next(iter(known))
        return str(value)

    def finish(self) -> None:
        if self.get("quantization_config"):
            self.problem(
                f"quantization_config {_kind(self.get('quantization_config'))} is not read yet; take the unquantized checkpoint"
            )
        if self.get("partial_rotary_factor") not in (None, 1, 1.0):
            self.problem(f"partial_rotary_factor {self.get('partial_rotary_factor')!r} is not supported (only 1)")
        if self._problems:
            problems = "; ".join(self._problems)
            raise UnsupportedConfig(
                f"the config of this {self._raw.get('model_type')} checkpoint cannot be exported: {problems}"
            )

    def unread(self) -> list[str]:
        return sorted(key for key in self._raw if key not in self._read and key not in _IRRELEVANT)


def _kind(value: Any) -> str:
    return repr(value.get("quant_method", "of an unnamed kind")) if isinstance(value, dict) else repr(value)


def _head_dim(reader: _Reader, hidden_size: int, heads: int) -> int:
    if reader.get("head_dim") is None and hidden_size % heads:
        reader.problem(
            f"hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}, and head_dim is not given"
        )
    return max(1, hidden_size // heads)


def _check_heads(reader: _Reader, c: ModelConfig) -> None:
    if c.num_attention_heads % c.num_key_value_heads:
        reader.problem(
            f"num_attention_heads {c.num_attention_heads} is not a multiple of num_key_value_heads {c.num_key_value_heads}"
        )
    if c.head_dim % 16:
        reader.problem(
            f"head_dim {c.head_dim} is not a multiple of 16, which the fused rotary attention of ONNX Runtime needs"
        )


def _read_rope(reader: _Reader, limit: int) -> RopeConfig:
    """Both spellings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (before)."""
    parameters, scaling = reader.get("rope_parameters"), reader.get("rope_scaling")
    for key, value in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if value is not None and not isinstance(value, dict):
            reader.problem(f"{key} is {value!r}, expected an object")
    values: dict[str, Any] = {
        **(scaling if isinstance(scaling, dict) else {}),
        **(parameters if isinstance(parameters, dict) else {}),
    }
    theta = (
        reader.number("rope_theta") if values.get("rope_theta") is None else reader.number("rope_theta", source=values)
    )
    kind = values.get("rope_type", values.get("type")) or "default"
    reader.get("rope_theta")
    if values.get("partial_rotary_factor") not in (None, 1, 1.0):
        reader.problem(f"partial_rotary_factor {values['partial_rotary_factor']!r} is not supported (only 1)")
    if kind in ("default", "freq_factors"):
        return RopeConfig(theta, kind)
    if kind == "linear":
        return RopeConfig(theta, kind, factor=reader.number("factor", source=values))
    if kind == "llama3":
        original = values.get("original_max_position_embeddings", limit)
        return RopeConfig(
            theta,
            kind,
            factor=reader.number("factor", source=values),
            low_freq_factor=reader.number("low_freq_factor", source=values),
            high_freq_factor=reader.number("high_freq_factor", source=values),
            original_max_position_embeddings=int(
                reader.number("original_max_position_embeddings", original, source=values)
            ),
        )
    reader.problem(f"rope type {kind!r} is not supported (known: default, linear, llama3)")
    return RopeConfig(theta)


def _read_windows(reader: _Reader, layers: int) -> tuple[int | None, ...]:
    """One window a layer: gated by `use_sliding_window`, none before `max_window_layers`; `layer_types` decides where given."""
    types, first = reader.get("layer_types"), reader.get("max_window_layers") or 0
    window, enabled = reader.get("sliding_window"), reader.flag("use_sliding_window", True)
    if window is None or not enabled:
        return (None,) * layers
    size = reader.size("sliding_window")
    if types is None:
        return tuple(size if i >= first else None for i in range(layers))
    if not isinstance(types, list) or len(types) != layers or set(types) - {"full_attention", "sliding_attention"}:
        reader.problem(f"layer_types must name full_attention or sliding_attention for each of the {layers} layers")
        return (None,) * layers
    return tuple(size if kind == "sliding_attention" else None for kind in types)


def _with_notes(config: ModelConfig, unread: list[str]) -> ModelConfig:
    notes = [f"config key {key!r} is not known to edgelm and was not used" for key in unread]
    return ModelConfig(**{**vars(config), "notes": tuple(notes)})
