"""Raw keys of Cohere's models in, DecoderConfig out."""

from __future__ import annotations

from typing import Any

from edgelm_export.config import DecoderConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import decoder_values, has_windows, local_layers


def read_cohere_config(reader: ConfigReader) -> DecoderConfig:
    """Command R."""
    return DecoderConfig(**_values(reader))


def read_cohere2_config(reader: ConfigReader) -> DecoderConfig:
    """Command R7B: layers with a window have positions, global ones have none."""
    values = _values(reader)
    local = local_layers(reader, values["num_hidden_layers"])
    ropes = zip(values["ropes"], local, strict=True)
    turned = tuple(rope if is_local and has_windows(reader) else None for rope, is_local in ropes)
    return DecoderConfig(**{**values, "ropes": turned})


def _values(reader: ConfigReader) -> dict[str, Any]:
    reader.rename({"layer_norm_eps": "rms_norm_eps", "use_qk_norm": "qk_norm"})
    return {**decoder_values(reader), "logits_scale": reader.number("logit_scale")}
