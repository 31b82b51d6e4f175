"""Raw keys of Gemma's models in, DecoderConfig out."""

from __future__ import annotations

import math
from typing import Any

from edgelm_export.config import DecoderConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import decoder_values, local_layers
from edgelm_export.read_rope import read_local_rope


def read_gemma_config(reader: ConfigReader) -> DecoderConfig:
    """The first Gemma. Its first configs say "gelu" and mean the approximation by tanh."""
    values = _values(reader)
    if values["hidden_act"] == "gelu":
        values["hidden_act"] = "gelu_pytorch_tanh"
    return DecoderConfig(**values)


def read_gemma2_config(reader: ConfigReader) -> DecoderConfig:
    """Gemma 2: scores scaled by a number of the config, soft caps, local layers in turn with global ones."""
    reader.rename({"hidden_activation": "hidden_act"})
    return DecoderConfig(**{**_values(reader), **_scores(reader)})


def read_gemma3_config(reader: ConfigReader) -> DecoderConfig:
    """Gemma 3: local layers have rotary positions of their own."""
    reader.rename({"hidden_activation": "hidden_act"})
    values = _values(reader)
    nearby = read_local_rope(reader, reader.size("max_position_embeddings"), values["head_dim"])
    ropes = zip(values["ropes"], local_layers(reader, values["num_hidden_layers"]), strict=True)
    changes = {"ropes": tuple(nearby if is_local else rope for rope, is_local in ropes)}
    return DecoderConfig(**{**values, **_scores(reader), **changes})


def _values(reader: ConfigReader) -> dict[str, Any]:
    reader.require("use_bidirectional_attention", False)
    values = decoder_values(reader)
    return {**values, "embedding_scale": math.sqrt(values["hidden_size"])}


def _scores(reader: ConfigReader) -> dict[str, Any]:
    return {
        "attention_scale": reader.number("query_pre_attn_scalar") ** -0.5,
        "attention_softcap": reader.optional_number("attn_logit_softcapping"),
        "logits_softcap": reader.optional_number("final_logit_softcapping"),
    }
