"""Raw keys of OLMo's descendants, and of EXAONE 4, which has their layers, in; DecoderConfig out."""

from __future__ import annotations

from edgelm_export.config import DecoderConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import decoder_values, has_windows, local_layers
from edgelm_export.read_rope import read_local_rope


def read_olmo2_config(reader: ConfigReader) -> DecoderConfig:
    """OLMo 2 and 3: what a scaling stretches are the positions of global layers."""
    values = decoder_values(reader)
    if not has_windows(reader):
        return DecoderConfig(**values)
    nearby = read_local_rope(reader, reader.size("max_position_embeddings"), values["head_dim"])
    ropes = zip(values["ropes"], local_layers(reader, values["num_hidden_layers"]), strict=True)
    return DecoderConfig(**{**values, "ropes": tuple(nearby if is_local else rope for rope, is_local in ropes)})


def read_exaone4_config(reader: ConfigReader) -> DecoderConfig:
    """EXAONE 4: where there are local layers, only they have positions."""
    values = decoder_values(reader)
    if not has_windows(reader):
        return DecoderConfig(**values)
    local = local_layers(reader, values["num_hidden_layers"])
    ropes = zip(values["ropes"], local, strict=True)
    return DecoderConfig(**{**values, "ropes": tuple(rope if is_local else None for rope, is_local in ropes)})
