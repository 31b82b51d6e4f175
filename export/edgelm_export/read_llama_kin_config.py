"""Raw keys of decoders with Llama's layers and something of their own in, DecoderConfig out."""

from __future__ import annotations

from typing import Any

from edgelm_export.config import DecoderConfig, Ministral3Config, RopeConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import decoder_values
from edgelm_export.read_rope import rope_of, rope_values


def read_granite_config(reader: ConfigReader) -> DecoderConfig:
    """Granite multiplies at four places, and divides its logits."""
    return DecoderConfig(**{**decoder_values(reader), **granite_scales(reader)})


def granite_scales(reader: ConfigReader) -> dict[str, float]:
    """What Granite multiplies by."""
    return {
        "attention_scale": reader.number("attention_multiplier", 1.0),
        "embedding_scale": reader.number("embedding_multiplier", 1.0),
        "residual_scale": reader.number("residual_multiplier", 1.0),
        "logits_scale": 1 / reader.number("logits_scaling", 1.0),
    }


def read_smollm3_config(reader: ConfigReader) -> DecoderConfig:
    """SmolLM3 has layers without positions; with a window, it is theirs."""
    values = decoder_values(reader)
    turning = _turning_layers(reader, values["num_hidden_layers"])
    ropes = zip(values["ropes"], turning, strict=True)
    changes: dict[str, Any] = {"ropes": tuple(rope if turns else None for rope, turns in ropes)}
    if reader.get("layer_types") is None:
        windows = zip(values["sliding_windows"], turning, strict=True)
        changes["sliding_windows"] = tuple(None if turns else window for window, turns in windows)
    return DecoderConfig(**{**values, **changes})


def read_seed_oss_config(reader: ConfigReader) -> DecoderConfig:
    """Seed-OSS has a name of its own for one bias."""
    reader.rename({"attention_out_bias": "attention_output_bias"})
    return DecoderConfig(**decoder_values(reader))


def read_phi3_config(reader: ConfigReader) -> DecoderConfig:
    """Phi-3 names parts of itself that no release uses."""
    reader.require("lm_head_bias", False)
    reader.require("full_attn_mod", 1)
    reader.require("interpolate_factor", 1)
    return DecoderConfig(**decoder_values(reader))


def read_olmo_config(reader: ConfigReader) -> DecoderConfig:
    """OLMo limits its queries, keys and values; the epsilon of its norms is a constant."""
    return DecoderConfig(**{**decoder_values(reader), "clip_qkv": reader.optional_number("clip_qkv")})


def read_hunyuan_config(reader: ConfigReader) -> DecoderConfig:
    """HunYuan's "dynamic" scaling with an `alpha` is a larger base (NTK-aware, whatever the length)."""
    values, rope = decoder_values(reader), rope_values(reader)
    alpha, size = rope.get("alpha"), values["head_dim"]
    if alpha is None or size <= 2:
        return DecoderConfig(**values)
    theta = reader.number("rope_theta", source=rope) * reader.number("alpha", source=rope) ** (size / (size - 2))
    turned = rope_of(reader, {"rope_theta": theta}, values["context_length"], size)
    return DecoderConfig(**{**values, "ropes": (turned,) * values["num_hidden_layers"]})


def read_ministral3_config(reader: ConfigReader) -> Ministral3Config:
    """Ministral 3 lets its queries grow, as Llama 4 does, after each context of training."""
    values, rope = decoder_values(reader), rope_values(reader)
    beta = rope.get("llama_4_scaling_beta", reader.get("llama_4_scaling_beta"))
    first: RopeConfig = values["ropes"][0]
    return Ministral3Config(
        **values,
        llama_4_scaling_beta=0.0
        if beta is None
        else reader.number("llama_4_scaling_beta", source={"llama_4_scaling_beta": beta}),
        original_max_position_embeddings=first.original_max_position_embeddings or values["context_length"],
    )


def _turning_layers(reader: ConfigReader, layers: int) -> tuple[bool, ...]:
    turning = reader.get("no_rope_layers")
    if turning is None:
        every = reader.size("no_rope_layer_interval", 4)
        return tuple((i + 1) % every != 0 for i in range(layers))
    if not isinstance(turning, list) or len(turning) != layers or set(turning) - {0, 1}:
        reader.problem(f"no_rope_layers must be 0 or 1 for each of the {layers} layers, 1 where there are positions")
        return (True,) * layers
    return tuple(map(bool, turning))
