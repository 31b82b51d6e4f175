"""What may differ from one encoder to the next: columns of partial configs, one of each column making a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.architectures.random_configs import ROPE_SCALINGS, Config

Column = Sequence[Config]  # {} leaves the keys out, so that the type's own default has to hold


def each(key: str, *values: Any) -> tuple[Config, ...]:
    """One partial config for each value."""
    return tuple({key: value} for value in values)


def widths(*pairs: tuple[int, int]) -> tuple[Config, ...]:
    """(hidden_size, num_attention_heads)."""
    return tuple({"hidden_size": size, "num_attention_heads": heads} for size, heads in pairs)


# What may differ in most types.
COMMON: Mapping[str, Column] = {
    "width": widths((32, 2), (36, 3), (60, 4), (48, 6), (20, 1)),
    "inner": each("intermediate_size", 40, 77, 96),
    "layers": each("num_hidden_layers", 1, 2, 3),
    "epsilon": ({}, *each("layer_norm_eps", 1e-5, 1e-2, 0.1)),
    "vocabulary": each("vocab_size", 104, 128, 161),
    "activation": each("hidden_act", "gelu", "relu", "gelu_new", "silu"),
    "positions": each("max_position_embeddings", 64, 75),
    "types": ({}, *each("type_vocab_size", 1, 2, 3)),
    "padding": ({}, *each("pad_token_id", 0, 5)),
    "tied": ({}, *each("tie_word_embeddings", True, False)),
}

# transformers counts RoBERTa's positions from pad_token_id + 1, so the limit of a text moves with it.
_ROBERTA = {"padding": ({}, *each("pad_token_id", 1, 0, 3, 5))}

# Layers, groups of layers that share weights, layers within a group.
_ALBERT_LAYERS = ((1, 1, 1), (3, 1, 1), (4, 2, 1), (3, 1, 2), (4, 2, 2), (5, 3, 1), (6, 4, 2))

_BOTH_TERMS = {"relative_attention": True, "pos_att_type": "c2p|p2c"}

# A projection of narrower embeddings, and the masked language model's head of later configs, which knows none of it.
_DEBERTA_HEADS = ({}, {"legacy": True}, {"legacy": False}, {"embedding_size": 20})
_DEBERTA = {
    "types": ({}, *each("type_vocab_size", 0, 1, 2, 3)),
    "absolute": ({}, *each("position_biased_input", True, False)),
    "pooler": ({}, *each("pooler_hidden_act", "tanh", "relu")),
    "heads": _DEBERTA_HEADS,
}
_DEBERTA_V1_ATTENTION = (
    {**_BOTH_TERMS, "max_relative_positions": -1},
    {**_BOTH_TERMS, "max_relative_positions": 6},
    {**_BOTH_TERMS, "max_relative_positions": 1},
    {**_BOTH_TERMS, "max_relative_positions": 70, "pos_att_type": ["p2c", "c2p"]},
    {"relative_attention": True, "pos_att_type": ["c2p"], "max_relative_positions": 9},
    {"relative_attention": True, "pos_att_type": "p2c", "max_relative_positions": 9},
    {"relative_attention": True, "pos_att_type": [], "max_relative_positions": 9},
    {"relative_attention": True},
    {"relative_attention": False},
    {"pos_att_type": "c2p|p2c"},  # not relative, yet the terms count in the scale
)
_V3 = {**_BOTH_TERMS, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
_DEBERTA_V2_ATTENTION = (
    {**_V3, "position_buckets": 8, "max_relative_positions": -1},
    {**_V3, "position_buckets": 8, "max_relative_positions": 16},
    {**_V3, "position_buckets": 7, "max_relative_positions": 30, "pos_att_type": ["p2c", "c2p"]},
    {**_V3, "position_buckets": 2, "max_relative_positions": 30},
    {**_V3, "position_buckets": 64, "max_relative_positions": 40},
    {**_V3, "position_buckets": -1, "max_relative_positions": 7},
    {**_V3},
    {**_V3, "position_buckets": 8, "pos_att_type": "c2p"},
    {**_V3, "position_buckets": 8, "pos_att_type": ["p2c"]},
    {**_V3, "position_buckets": 8, "pos_att_type": None},
    {**_BOTH_TERMS, "position_buckets": 8, "share_att_key": False, "norm_rel_ebd": "none"},
    {"relative_attention": True, "pos_att_type": "c2p", "norm_rel_ebd": "layer_norm"},
    {"relative_attention": True, "pos_att_type": "p2c", "max_relative_positions": 5},
    {"relative_attention": False},
    {"pos_att_type": "c2p|p2c", "norm_rel_ebd": "layer_norm"},
)

_LINEAR, _LLAMA3 = ROPE_SCALINGS["linear"] or {}, ROPE_SCALINGS["llama3"] or {}
_FULL, _SLIDING = "full_attention", "sliding_attention"


def _modernbert_rope(full: Config, sliding: Config) -> Config:
    return {"rope_parameters": {_FULL: full, _SLIDING: sliding}}


_MODERNBERT_ROPE = (
    {},
    {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0},
    {"local_rope_theta": 160000.0},
    {"global_rope_theta": 500.0, "local_rope_theta": 50000},
    _modernbert_rope({"rope_type": "default", "rope_theta": 5e4}, {"rope_type": "default", "rope_theta": 3e3}),
    _modernbert_rope({"rope_theta": 8e4, **_LINEAR}, {"rope_type": "default", "rope_theta": 2e4}),
    _modernbert_rope({"rope_theta": 1e5, **_LLAMA3}, {"rope_type": "default", "rope_theta": 1e4}),
)
_MODERNBERT_LAYERS = (
    *({"num_hidden_layers": n, "global_attn_every_n_layers": every} for n, every in ((4, 3), (2, 1), (3, 7), (1, 3))),
    {"num_hidden_layers": 4},
    {"num_hidden_layers": 3, "layer_types": [_SLIDING, _SLIDING, _FULL]},
    {"num_hidden_layers": 2, "layer_types": [_SLIDING, _SLIDING]},
)
_MODERNBERT_BIASES = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")

# What a type has of its own, or in another spelling; () takes a column away.
OWN: Mapping[str, Mapping[str, Column]] = {
    "bert": {},
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": {
        "width": (
            {"hidden_size": 32, "num_attention_heads": 2, "embedding_size": 32},
            {"hidden_size": 36, "num_attention_heads": 3, "embedding_size": 16},
            {"hidden_size": 60, "num_attention_heads": 4, "embedding_size": 70},
            {"hidden_size": 20, "num_attention_heads": 1},
        ),
    },
    "distilbert": {
        "width": (
            *({"dim": size, "n_heads": heads} for size, heads in ((32, 2), (36, 3), (60, 4))),
            *widths((48, 6)),
        ),
        "inner": each("hidden_dim", 40, 77, 96),
        "layers": (*each("n_layers", 1, 2), *each("num_hidden_layers", 3)),
        "activation": each("activation", "gelu", "relu"),
        "sinusoidal": ({}, *each("sinusoidal_pos_embds", True, False)),
        "types": (),
    },
    "albert": {
        "layers": tuple(
            {"num_hidden_layers": layers, "num_hidden_groups": groups, "inner_group_num": inner}
            for layers, groups, inner in _ALBERT_LAYERS
        ),
        "embedding": ({}, *each("embedding_size", 16, 24, 60)),
    },
    "mpnet": {
        "buckets": ({}, *each("relative_attention_num_buckets", 32, 40)),
        "padding": ({}, *each("pad_token_id", 1, 0, 3)),
        "positions": each("max_position_embeddings", 64, 200),  # the last bucket begins 128 positions away
        "types": (),
    },
    "deberta": {**_DEBERTA, "attention": _DEBERTA_V1_ATTENTION},
    "deberta-v2": {
        **_DEBERTA,
        "attention": _DEBERTA_V2_ATTENTION,
        "convolution": (
            {},
            {},
            {"conv_kernel_size": 3, "conv_act": "gelu"},
            {"conv_kernel_size": 5, "conv_groups": 4},
            {"conv_kernel_size": 1, "conv_act": "relu"},
        ),
    },
    "modernbert": {
        "width": widths((64, 4), (48, 4), (40, 4), (36, 3), (96, 3), (6, 3)),
        "layers": _MODERNBERT_LAYERS,
        "epsilon": ({}, *each("norm_eps", 1e-5, 1e-2, 0.1)),
        "activation": ({}, *each("hidden_activation", "gelu", "silu", "gelu_pytorch_tanh")),
        "window": ({}, *each("local_attention", 16, 6, 9, 200, 2)),
        "rope": _MODERNBERT_ROPE,
        "biases": ({}, *({key: True} for key in _MODERNBERT_BIASES), dict.fromkeys(_MODERNBERT_BIASES, True)),
        "pooling": ({}, *each("classifier_pooling", "cls", "mean")),
        "head": ({}, *each("classifier_activation", "relu", "tanh")),
        "decoder": ({}, *each("decoder_bias", True, False)),
        "padding": each("pad_token_id", 0, 5),  # transformers' default is beyond so small a vocabulary
        "types": (),
    },
    "eurobert": {
        "width": (
            {"hidden_size": 64, "num_attention_heads": 4},
            {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2},
            {"hidden_size": 60, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32},
            {"hidden_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 48},
            {"hidden_size": 48, "num_attention_heads": 3},
        ),
        "epsilon": each("rms_norm_eps", 1e-5, 1e-2, 0.1),
        "activation": each("hidden_act", "silu", "gelu"),
        "rope": (
            {},
            {"rope_theta": 250000.0},
            *({"rope_theta": 1e4, "rope_scaling": scaling} for scaling in (_LINEAR, _LLAMA3)),
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
        ),
        "biases": ({}, {"attention_bias": True}, {"mlp_bias": True}, {"attention_bias": True, "mlp_bias": True}),
        "pooling": ({}, *each("classifier_pooling", "late", "bos", "mean")),
        "padding": each("pad_token_id", 0, 5),
        "types": (),
    },
}
