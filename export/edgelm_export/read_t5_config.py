"""Raw keys of T5 and its kin in, T5Config out."""

from __future__ import annotations

from edgelm_export.blocks.activations import ACTIVATIONS
from edgelm_export.config import ModelConfig, T5Config
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import pad_token_id

# Tokens that the first T5 was trained on; its positions are relative, so nothing in the model ends there.
_TRAINED_LENGTH = 512

# The fused attention over a cache takes heads of such sizes (ONNX Runtime 1.31).
_HEAD_MULTIPLE = 8

# Training, storage, what the reader takes from other keys, and what no implementation reads.
_PASSED_OVER = (
    "dropout_rate",
    "initializer_factor",
    "decoder_start_token_id",
    "task_specific_params",
    "tokenizer_class",
    "scalable_attention",
)


def read_t5_config(reader: ConfigReader) -> T5Config:
    """The config of a T5, mT5 or umT5; problems are left with the reader.

    Facts say what feed-forward layers and head a type has by default, and whether `bias_in_every_layer`.
    """
    for key in _PASSED_OVER:
        reader.get(key)
    hidden_size, heads, layers = reader.size("d_model"), reader.size("num_heads"), reader.layers("num_layers")
    gated, act = _feed_forward(reader)
    tied, scaled = _head(reader)
    shared = {
        "model_type": str(reader.get("model_type")),
        "vocab_size": reader.size("vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": reader.size("d_ff"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": _head_dim(reader),
        "context_length": reader.endless_context(reader.size("n_positions", _TRAINED_LENGTH)),
        "hidden_act": act,
        "pad_token_id": pad_token_id(reader),
        "tie_word_embeddings": tied,
        "qkv_bias": False,
        "attention_output_bias": False,
        "mlp_bias": False,
    }
    buckets, distance = _buckets(reader)
    return T5Config(
        **shared,
        num_hidden_layers=layers,
        decoder=ModelConfig(**shared, num_hidden_layers=reader.layers("num_decoder_layers", layers)),
        layer_norm_eps=reader.number("layer_norm_epsilon", 1e-6),
        max_position_embeddings=0,
        position_offset=0,
        embedding_scale=1.0,
        pre_norm=True,
        embedding_norm=False,
        final_norm=True,
        logits_bias=False,
        logits_scale=hidden_size**-0.5 if scaled else 1.0,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=distance,
        gated=gated,
        bias_in_every_layer=reader.flag("bias_in_every_layer"),
    )


def _feed_forward(reader: ConfigReader) -> tuple[bool, str]:
    """Whether feed-forward layers are gated, and their activation, from names such as relu and gated-gelu."""
    stated = str(reader.get("feed_forward_proj"))
    gated, act = stated.startswith("gated-"), stated.removeprefix("gated-")
    act = "gelu_new" if stated == "gated-gelu" else act
    if act not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        reader.problem(f"feed_forward_proj {stated!r} is not supported (known: {known}, each alone or after 'gated-')")
        return gated, act
    # Both are written down too, as transformers derived them.
    reader.require("is_gated_act", gated)
    reader.require("dense_act_fn", act)
    return gated, act


def _head(reader: ConfigReader) -> tuple[bool, bool]:
    """Whether the head is the token table, and whether hidden states are scaled before it.

    The first T5 does both, later ones neither, and transformers 4 tells them apart by `tie_word_embeddings`. Transformers 5
    writes true for all; whether it scales is in `scale_decoder_outputs` for T5 and since 5.24 for umT5, which it always scaled
    before; mT5 it never does. Files it has not written are read as 4 reads them. Whether the head is tied is then left open,
    and it counts as untied: a head that is not stored is the token table.
    """
    tied = reader.flag("tie_word_embeddings", True)
    fixed = reader.get("scaled_by_transformers_5")
    release = str(reader.get("transformers_version")).split(".")[0]
    if fixed is not None and release.isdigit() and int(release) >= 5:
        return False, bool(fixed) and reader.flag("scale_decoder_outputs", True)
    scaled = reader.flag("scale_decoder_outputs", tied)
    return tied and scaled, scaled


def _head_dim(reader: ConfigReader) -> int:
    size = reader.size("d_kv", least=_HEAD_MULTIPLE)
    if size % _HEAD_MULTIPLE:
        reader.problem(
            f"d_kv {size} is not a multiple of {_HEAD_MULTIPLE}, which the fused attention of ONNX Runtime needs"
        )
    return size


def _buckets(reader: ConfigReader) -> tuple[int, int]:
    """Buckets of distances, and from which distance on all share the last."""
    count = reader.size("relative_attention_num_buckets", 32, least=4)
    distance = reader.size("relative_attention_max_distance", 128)
    if distance <= count // 2:
        reader.problem(
            f"relative_attention_max_distance {distance} must be above half of relative_attention_num_buckets {count}"
        )
    return count, distance
