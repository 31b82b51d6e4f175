"""Raw keys of BART and its kin in, BartConfig out."""

from __future__ import annotations

import math
from typing import Any

from edgelm_export.blocks.activations import ACTIVATIONS
from edgelm_export.config import BartConfig, ModelConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import pad_token_id

# The fused attention over a cache takes heads of such sizes (ONNX Runtime 1.31).
_HEAD_MULTIPLE = 8

# Training, storage, second names, and what no release of transformers reads.
_PASSED_OVER = (
    "dropout activation_dropout encoder_layerdrop decoder_layerdrop init_std classif_dropout num_hidden_layers _num_labels",
    "add_bias_logits extra_pos_embeddings layernorm_variant variant tokenizer_class prefix task_specific_params",
    "decoder_start_token_id",
)


def read_bart_config(reader: ConfigReader) -> BartConfig:
    """The config of BART and its kin; problems are left with the reader.

    A family's facts say what its keys leave open: `pre_norm`, `embedding_norm`, `norms_tokens_first` and `final_norm` where
    norms stand; `positions` of which kind they are and `position_offset` how many rows of their table stand for none;
    `logits_bias` whether one may be there; `separate_vocabularies` whether the two sides may have a table each.
    """
    for key in " ".join(_PASSED_OVER).split():
        reader.get(key)
    hidden_size, limit = reader.size("d_model"), reader.size("max_position_embeddings")
    tied, positions = reader.flag("tie_word_embeddings", True), str(reader.get("positions"))
    target_vocabulary, shared_embeddings = _target_vocabulary(reader, tied)
    shared: dict[str, Any] = {
        "model_type": str(reader.get("model_type")),
        "hidden_size": hidden_size,
        "context_length": reader.context(limit),
        "hidden_act": reader.one_of("activation_function", ACTIVATIONS, "gelu"),
        # Where padding takes no position, its id is part of the model.
        "pad_token_id": reader.size("pad_token_id", least=0) if positions == "counted" else pad_token_id(reader),
        "tie_word_embeddings": tied,
        "qkv_bias": True,
        "attention_output_bias": True,
        "mlp_bias": True,
    }
    return BartConfig(
        **shared,
        **_side(reader, hidden_size, "encoder"),
        vocab_size=reader.size("vocab_size"),
        decoder=ModelConfig(**shared, **_side(reader, hidden_size, "decoder"), vocab_size=target_vocabulary),
        layer_norm_eps=1e-5,
        max_position_embeddings=limit,
        positions=positions,
        position_offset=reader.size("position_offset", 0, least=0),
        embedding_scale=math.sqrt(hidden_size) if reader.flag("scale_embedding") else 1.0,
        shared_embeddings=shared_embeddings,
        **_norms(reader, positions),
        logits_bias=reader.flag("logits_bias"),
        logits_scale=1.0,
        relative_attention_num_buckets=0,
        relative_attention_max_distance=0,
    )


def _norms(reader: ConfigReader, positions: str) -> dict[str, Any]:
    """Where norms stand. Keys of the time when all these types were one class must agree with what the type means since."""
    names = ("pre_norm", "embedding_norm", "norms_tokens_first", "final_norm")
    facts = {name: reader.flag(name) for name in names}
    reader.require("normalize_before", facts["pre_norm"])
    reader.require("normalize_embedding", facts["embedding_norm"])
    reader.require("add_final_layer_norm", facts["final_norm"])
    reader.require("static_position_embeddings", positions != "learned")
    allowed = (facts["norms_tokens_first"],) if facts["embedding_norm"] else (False, True)
    reader.require("do_blenderbot_90_layernorm", *allowed)
    return facts


def _target_vocabulary(reader: ConfigReader, tied: bool) -> tuple[int, bool]:
    """Tokens the decoder knows, and whether both sides read one table."""
    size = reader.size("vocab_size")
    if not reader.flag("separate_vocabularies"):
        return size, True
    if not reader.flag("share_encoder_decoder_embeddings", True):
        return reader.size("decoder_vocab_size", size), False
    stated = reader.get("decoder_vocab_size")  # of a table that is tied and shared, transformers takes no notice of it
    if not tied and stated not in (None, size):
        reader.problem(f"decoder_vocab_size {stated!r} is not vocab_size {size}, but the vocabulary is shared")
    return size, True


def _side(reader: ConfigReader, hidden_size: int, side: str) -> dict[str, Any]:
    """Sizes of one half."""
    heads = reader.size(f"{side}_attention_heads")
    if hidden_size % heads:
        reader.problem(f"d_model {hidden_size} is not a multiple of {side}_attention_heads {heads}")
    elif side == "decoder" and hidden_size // heads % _HEAD_MULTIPLE:
        reader.problem(
            f"the decoder's heads have size {hidden_size // heads} (d_model / decoder_attention_heads), which is not a multiple "
            f"of {_HEAD_MULTIPLE}, as the fused attention of ONNX Runtime needs"
        )
    return {
        "intermediate_size": reader.size(f"{side}_ffn_dim"),
        "num_hidden_layers": reader.layers(f"{side}_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": max(1, hidden_size // heads),
    }
