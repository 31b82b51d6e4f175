"""Raw keys of Llama-like models in, DecoderConfig out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm_export.blocks.activations import ACTIVATIONS
from edgelm_export.config import DecoderConfig, EuroBertConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_rope import read_rope

# Heads of GroupQueryAttention are multiples of it wide (ONNX Runtime 1.31).
HEAD_MULTIPLE = 8

# EuroBERT's words -> ours; "late" means the logits of all tokens are averaged.
_CLASSIFIER_POOLINGS = {"bos": "cls", "mean": "mean", "late": "late"}


def read_decoder_config(reader: ConfigReader) -> DecoderConfig:
    """The config of a Llama-like model; problems are left with the reader."""
    return DecoderConfig(**decoder_values(reader))


def read_eurobert_config(reader: ConfigReader) -> EuroBertConfig:
    """The same with the pooling of a classifier, which EuroBERT's own code calls `clf_pooling`."""
    key = "clf_pooling" if reader.get("classifier_pooling") is None else "classifier_pooling"
    pooling = _CLASSIFIER_POOLINGS[reader.one_of(key, _CLASSIFIER_POOLINGS, "late")]
    return EuroBertConfig(**decoder_values(reader), classifier_pooling=pooling)


def decoder_values(reader: ConfigReader, *, rotary: bool = True) -> dict[str, Any]:
    """The fields of a DecoderConfig, for readers of configs that have more or whose positions are not `rotary`."""
    hidden_size, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    layers = reader.layers("num_hidden_layers")
    limit = reader.size("max_position_embeddings")
    head_dim = reader.head_dim(hidden_size, heads)
    values: dict[str, Any] = dict(
        model_type=str(reader.get("model_type")),
        vocab_size=reader.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=reader.size("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=reader.size("num_key_value_heads", heads),
        head_dim=head_dim,
        context_length=reader.context(limit),
        hidden_act=reader.one_of("hidden_act", ACTIVATIONS),
        pad_token_id=pad_token_id(reader),
        tie_word_embeddings=reader.flag("tie_word_embeddings"),
        qkv_bias=reader.flag("qkv_bias") or reader.flag("attention_bias"),
        attention_output_bias=reader.flag("attention_output_bias", reader.flag("attention_bias")),
        mlp_bias=reader.flag("mlp_bias"),
        norm_eps=reader.number("rms_norm_eps"),
        ropes=(read_rope(reader, limit, head_dim) if rotary else None,) * layers,
        sliding_windows=_read_windows(reader, layers, reader.context(limit)),
        qk_norm=reader.flag("qk_norm"),
        clip_qkv=None,
        causal=reader.flag("is_causal", True),
        pads_by_id=_names_padding(reader),
        attention_scale=None,
        attention_softcap=None,
        embedding_scale=1.0,
        residual_scale=1.0,
        logits_scale=1.0,
        logits_softcap=None,
    )
    _check_attention(reader, values)
    return values


def pad_token_id(reader: ConfigReader) -> int:
    """The id rows are padded with; what stands there does not matter, so any valid one does where none is named."""
    return reader.get("pad_token_id") if _names_padding(reader) else 0


def _names_padding(reader: ConfigReader) -> bool:
    value = reader.get("pad_token_id")
    return isinstance(value, int) and 0 <= value < reader.size("vocab_size")


def _check_attention(reader: ConfigReader, values: Mapping[str, Any]) -> None:
    heads, shared, size = (values[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    if heads % shared:
        reader.problem(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {shared}")
    if size % HEAD_MULTIPLE:
        reader.problem(
            f"head_dim {size} is not a multiple of {HEAD_MULTIPLE}, which the fused attention of ONNX Runtime needs"
        )
    if not values["causal"] and any(values["sliding_windows"]):
        reader.problem("sliding windows are supported in causal models only (is_causal is false)")


def local_layers(reader: ConfigReader, layers: int) -> tuple[bool, ...]:
    """Which layers are meant to see but a window, however long it is: as `layer_types` says, where given.

    Else a `sliding_window_pattern` of 4, or "LLLG", means three local layers before each global one, and without it all layers
    from `max_window_layers` on are local.
    """
    types, first = reader.get("layer_types"), reader.get("max_window_layers") or 0
    pattern = reader.get("sliding_window_pattern")
    if types is not None:
        if not isinstance(types, list) or len(types) != layers or set(types) - {"full_attention", "sliding_attention"}:
            reader.problem(f"layer_types must name full_attention or sliding_attention for each of the {layers} layers")
            return (False,) * layers
        return tuple(kind == "sliding_attention" for kind in types)
    if pattern is None:
        return tuple(i >= first for i in range(layers))
    if isinstance(pattern, str) and pattern and not set(pattern) - {"L", "G"}:
        return tuple(pattern[i % len(pattern)] == "L" for i in range(layers))
    every = reader.size("sliding_window_pattern")
    return tuple((i + 1) % every != 0 for i in range(layers))


def has_windows(reader: ConfigReader) -> bool:
    """Whether there is a window, and nothing forbids it."""
    window, allowed = reader.get("sliding_window"), reader.flag("use_sliding_window", True)
    return window is not None and allowed


def _read_windows(reader: ConfigReader, layers: int, context: int) -> tuple[int | None, ...]:
    """One window a layer, where `use_sliding_window` does not forbid it.

    A window as long as the context hides nothing, and a full cache takes memory only as it is used.
    """
    local = local_layers(reader, layers)
    if not has_windows(reader):
        return (None,) * layers
    length = reader.size("sliding_window")
    size = length if length < context else None
    return tuple(size if is_local else None for is_local in local)
