"""Raw keys of BERT-like encoders in, EncoderConfig out."""

from __future__ import annotations

from typing import Any

from edgelm_export.blocks.activations import ACTIVATIONS
from edgelm_export.config import AlbertConfig, EncoderConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import pad_token_id


def read_encoder_config(reader: ConfigReader) -> EncoderConfig:
    """The config of a BERT-like encoder; problems are left with the reader.

    A family's facts say what its keys leave open: `position_offset` rows at the start of the position table stand for no
    position (`positions_after_padding`: as RoBERTa, those up to the padding's id), `type_vocab_size` is 0 where there are
    no token types.
    """
    return EncoderConfig(**encoder_values(reader))


def encoder_values(reader: ConfigReader) -> dict[str, Any]:
    """The fields of an EncoderConfig, for readers of configs that have more."""
    reader.require("position_embedding_type", "absolute")
    reader.require("is_decoder", False)
    hidden_size, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    offset = reader.size("position_offset", 0, least=0)
    if reader.flag("positions_after_padding"):
        offset = reader.size("pad_token_id", least=0) + 1
    rows = reader.size("max_position_embeddings", least=offset + 1)
    return {
        "model_type": str(reader.get("model_type")),
        "vocab_size": reader.size("vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": reader.size("intermediate_size"),
        "num_hidden_layers": reader.layers("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": reader.head_dim(hidden_size, heads),
        "context_length": reader.context(rows - offset),
        "hidden_act": reader.one_of("hidden_act", ACTIVATIONS),
        "pad_token_id": pad_token_id(reader),
        "tie_word_embeddings": reader.flag("tie_word_embeddings", True),
        "qkv_bias": True,
        "attention_output_bias": True,
        "mlp_bias": True,
        "layer_norm_eps": reader.number("layer_norm_eps"),
        "embedding_size": reader.size("embedding_size", hidden_size),
        "max_position_embeddings": rows,
        "type_vocab_size": reader.size("type_vocab_size", 0, least=0),
        "relative_attention_num_buckets": reader.size("relative_attention_num_buckets", 0, least=0),
    }


def read_albert_config(reader: ConfigReader) -> AlbertConfig:
    """The config of an ALBERT; keys that transformers has never used are passed over."""
    _pass_over(
        reader, "classifier_dropout_prob", "down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"
    )
    return AlbertConfig(
        **encoder_values(reader),
        num_hidden_groups=reader.size("num_hidden_groups", 1),
        inner_group_num=reader.size("inner_group_num", 1),
    )


def read_distilbert_config(reader: ConfigReader) -> EncoderConfig:
    """The config of a DistilBERT, whose epsilon is fixed and whose table of positions is stored, sinusoidal or not."""
    reader.rename(_DISTILBERT_KEYS)
    _pass_over(reader, "dropout", "qa_dropout", "seq_classif_dropout", "tie_weights_", "sinusoidal_pos_embds")
    values = encoder_values(reader)
    fixed = {"layer_norm_eps": 1e-12, "embedding_size": values["hidden_size"], "type_vocab_size": 0}
    return EncoderConfig(**{**values, **fixed})


def read_mpnet_config(reader: ConfigReader) -> EncoderConfig:
    """The config of an MPNet, which has no token types and uses 32 buckets of relative positions, however many its table has."""
    values = encoder_values(reader)
    buckets = reader.size("relative_attention_num_buckets", 32, least=32)
    return EncoderConfig(**{**values, "type_vocab_size": 0, "relative_attention_num_buckets": buckets})


def _pass_over(reader: ConfigReader, *keys: str) -> None:
    """Counts keys as read that leave the forward pass alone."""
    for key in keys:
        reader.get(key)


_DISTILBERT_KEYS = {
    "dim": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}
