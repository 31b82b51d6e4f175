"""Raw keys of DeBERTa 1, 2 and 3 in, DebertaConfig out."""

from __future__ import annotations

import math
from typing import Any

from edgelm_export.blocks.activations import ACTIVATIONS
from edgelm_export.config import DebertaConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_encoder_config import encoder_values

_TERMS = ("c2p", "p2c")


def read_deberta_config(reader: ConfigReader) -> DebertaConfig:
    """The config of a DeBERTa of the first version; what only later ones have must be absent or off."""
    reader.require("talking_head", False)
    reader.require("position_buckets", -1, 0)
    reader.require("share_att_key", False)
    reader.require("norm_rel_ebd", "none")
    reader.require("conv_kernel_size", 0)
    later = {
        "position_buckets": 0,
        "norm_rel_ebd": False,
        "conv_kernel_size": 0,
        "conv_groups": 1,
        "conv_act": "linear",
    }
    return DebertaConfig(**_common_values(reader), **later, share_att_key=False, pos_key_bias=False)


def read_deberta_v2_config(reader: ConfigReader) -> DebertaConfig:
    """The config of a DeBERTa of the second or third version."""
    values = _common_values(reader)
    norm = reader.one_of("norm_rel_ebd", {"none": None, "layer_norm": None}, "none") == "layer_norm"
    width = reader.size("conv_kernel_size", 0, least=0)
    groups = reader.size("conv_groups", 1)
    if width and (width % 2 == 0 or values["hidden_size"] % groups):
        reader.problem(
            f"conv_kernel_size {width} with conv_groups {groups} is not supported (only odd sizes, and groups that divide hidden_size)"
        )
    return DebertaConfig(
        **values,
        position_buckets=_position_buckets(reader, values["max_relative_positions"]),
        share_att_key=reader.flag("share_att_key"),
        pos_key_bias=True,
        norm_rel_ebd=norm,
        conv_kernel_size=width,
        conv_groups=groups,
        conv_act=reader.one_of("conv_act", ACTIVATIONS, "tanh"),
    )


def _common_values(reader: ConfigReader) -> dict[str, Any]:
    for key in ("pooler_dropout", "cls_dropout", "padding_idx"):
        reader.get(key)
    values = encoder_values(reader)
    hidden_size, rows = values["hidden_size"], values["max_position_embeddings"]
    reader.require("attention_head_size", values["head_dim"])
    reader.require("pooler_hidden_size", hidden_size)
    named = _named_terms(reader)
    limit = reader.get("max_relative_positions")
    positioned, relative = reader.flag("position_biased_input", True), reader.flag("relative_attention")
    return values | {
        "max_position_embeddings": rows if positioned else 0,
        "relative_attention": relative,
        "position_terms": named if relative else (),
        "attention_scale": 1 / math.sqrt(values["head_dim"] * (1 + len(named))),
        "max_relative_positions": rows if limit is None or _is_none(limit) else reader.size("max_relative_positions"),
        "pooler_hidden_act": reader.one_of("pooler_hidden_act", ACTIVATIONS, "gelu"),
        "legacy": reader.flag("legacy", True),
    }


def _named_terms(reader: ConfigReader) -> tuple[str, ...]:
    """The terms of `pos_att_type`, a list or text like "c2p|p2c"."""
    value = reader.get("pos_att_type")
    named = [part.strip() for part in value.lower().split("|")] if isinstance(value, str) else value or []
    if not isinstance(named, list) or len({*map(str, named)} & {*_TERMS}) != len(named):
        reader.problem(f"pos_att_type {value!r} is not supported (only {' and '.join(_TERMS)}, each once)")
        return ()
    return tuple(str(term) for term in named)


def _position_buckets(reader: ConfigReader, limit: int) -> int:
    value = reader.get("position_buckets")
    if value is None or _is_none(value):
        return 0
    buckets = reader.size("position_buckets")
    if not 1 <= buckets // 2 < limit - 1:
        reader.problem(
            f"position_buckets {buckets} is not supported with max_relative_positions {limit} (only from 2, half of them below {limit - 1})"
        )
        return 0
    return buckets


def _is_none(value: Any) -> bool:
    """Whether a number below 1 stands for "not given"."""
    return type(value) is int and value < 1
