"""Raw keys of BLOOM and MPT, whose positions are a bias on the scores, in; GptConfig out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelm_export.config import Alibi, GptConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_gpt_config import gpt_values

# Tokens that BLOOM was trained on; nothing in the model ends there.
_TRAINED_LENGTH = 2048

# What the first code of BLOOM read and transformers never did, and settings of training.
_BLOOM_PASSED_OVER = (
    "attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion offset_alibi skip_bias_add skip_bias_add_qkv",
    "unk_token_id gradient_checkpointing",
)
_MPT_PASSED_OVER = "embedding_fraction init_config init_device learned_pos_emb norm_type verbose emb_pdrop resid_pdrop"

# Settings of attn_config that transformers does not read, with the one value for which that is right.
_MPT_FIXED = {
    "attn_type": "multihead_attention",
    "alibi": True,
    "qk_ln": False,
    "prefix_lm": False,
    "attn_uses_sequence_id": False,
}


def read_bloom_config(reader: ConfigReader) -> GptConfig:
    """The config of a BLOOM; problems are left with the reader."""
    after_norm = reader.flag("apply_residual_connection_post_layernorm")
    reader.assume("max_position_embeddings", reader.endless_context(reader.size("seq_length", _TRAINED_LENGTH)))
    for key in " ".join(_BLOOM_PASSED_OVER).split():
        reader.get(key)
    reader.require("slow_but_exact", False)
    values = gpt_values(reader, rotary=False)
    own = {"layer": "normed-sum" if after_norm else "pre-norm", "embedding_norm": True, "alibi": Alibi()}
    return GptConfig(**{**values, **own})


def read_mpt_config(reader: ConfigReader) -> GptConfig:
    """The config of an MPT; problems are left with the reader.

    It is read as transformers does, but for alibi_bias_max: MosaicML's code and llama.cpp heed it, transformers takes 8 for all.
    """
    reader.require("expansion_ratio", 4)
    reader.require("no_bias", True)
    for key in _MPT_PASSED_OVER.split():
        reader.get(key)
    if reader.get("logit_scale") is not None:
        reader.problem(f"logit_scale {reader.get('logit_scale')!r} is not supported (only null)")
    values = gpt_values(reader, rotary=False)
    return GptConfig(**{**values, "norm_parts": ("weight",), **_mpt_attention(reader)})


def _mpt_attention(reader: ConfigReader) -> dict[str, Any]:
    stated = reader.get("attn_config") or {}
    if not isinstance(stated, Mapping):
        reader.problem(f"attn_config is {stated!r}, expected an object")
        stated = {}
    # GGUF has these two outside.
    stated = {**{key: reader.get(key) for key in ("clip_qkv", "alibi_bias_max")}, **stated}
    for key, only in _MPT_FIXED.items():
        if stated.get(key) not in (None, only):
            reader.problem(f"attn_config.{key} {stated[key]!r} is not supported (only {only!r})")
    clip, scale = (
        reader.number(key, source=stated) if stated.get(key) else None for key in ("clip_qkv", "softmax_scale")
    )
    alibi = Alibi(bias_max=reader.number("alibi_bias_max", 8, source=stated))
    return {"alibi": alibi, "clip_qkv": clip, "attention_scale": scale}
