"""What may differ from one encoder-decoder to the next: columns of partial configs, one of each column making a configuration."""

from __future__ import annotations

from collections.abc import Mapping

from tests.architectures.encoder_tables import Column, each
from tests.architectures.random_configs import Config

# Beginning and end as most of BART's kin have them; padding is a column of its own.
_IDS: Config = {"bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None}


def _widths(*rows: tuple[int, int, int]) -> tuple[Config, ...]:
    """(d_model, heads of the encoder, heads of the decoder); a decoder's heads are multiples of 8 wide, as its kernels need."""
    keys = ("d_model", "encoder_attention_heads", "decoder_attention_heads")
    return tuple(dict(zip(keys, row, strict=True)) for row in rows)


def _t5_widths(*rows: tuple[int, int, int]) -> tuple[Config, ...]:
    """(d_model, heads, width of a head)."""
    return tuple(dict(zip(("d_model", "num_heads", "d_kv"), row, strict=True)) for row in rows)


def _both(ending: str, *rows: tuple[int, int]) -> tuple[Config, ...]:
    """(the encoder's, the decoder's)."""
    return tuple({f"encoder_{ending}": one, f"decoder_{ending}": other} for one, other in rows)


def _buckets(*rows: tuple[int, int]) -> tuple[Config, ...]:
    """(buckets, the distance from which on all share the last)."""
    keys = ("relative_attention_num_buckets", "relative_attention_max_distance")
    return tuple(dict(zip(keys, row, strict=True)) for row in rows)


# What may differ in BART and its kin.
BART: Mapping[str, Column] = {
    "ids": (_IDS, {**_IDS, "decoder_start_token_id": 0}),
    "width": _widths((16, 2, 2), (24, 8, 3), (40, 5, 5), (48, 12, 2), (64, 1, 4), (56, 7, 7), (72, 3, 9)),
    "layers": _both("layers", (1, 2), (2, 1), (2, 2), (3, 1)),
    "inner": _both("ffn_dim", (32, 40), (33, 47), (64, 24)),
    "scale": ({}, *each("scale_embedding", True, False)),
    "activation": ({}, *each("activation_function", "gelu", "relu", "gelu_new", "silu", "swish")),
    "vocabulary": each("vocab_size", 104, 120, 161),
    "positions": each("max_position_embeddings", 40, 64, 75),
    "padding": each("pad_token_id", 0, 1, 5, 103),
    "tied": ({}, *each("tie_word_embeddings", True, True, False)),
}

# Padding is the last id, and begins the target.
_MARIAN_IDS: Config = {**_IDS, "eos_token_id": 0, "bos_token_id": None}
_SEPARATE: Config = {"share_encoder_decoder_embeddings": False}

# What may differ in T5 and its kin.
T5: Mapping[str, Column] = {
    "ids": tuple({"decoder_start_token_id": start, "eos_token_id": 1} for start in (0, 2)),
    "width": _t5_widths((32, 4, 8), (32, 3, 16), (48, 5, 8), (40, 7, 16), (24, 3, 40), (64, 1, 24), (32, 2, 64)),
    "layers": (
        {"num_layers": 2},
        *({"num_layers": one, "num_decoder_layers": other} for one, other in ((1, 3), (3, 1))),
    ),
    "inner": each("d_ff", 40, 77, 96),
    "buckets": ({}, *_buckets((32, 128), (8, 10), (16, 20), (20, 50), (64, 256), (4, 5))),
    "activation": ({}, *each("feed_forward_proj", "relu", "gated-gelu", "gated-silu", "gelu", "gated-relu")),
    "epsilon": ({}, *each("layer_norm_epsilon", 1e-6, 1e-2, 0.1)),
    "vocabulary": each("vocab_size", 104, 120, 161),
    "padding": ({}, *each("pad_token_id", 0, 5)),
    "positions": ({}, *each("n_positions", 512)),
}

# Of a file that transformers 5 wrote, which says that the head is tied whether it is or not.
WRITTEN_BY_5: Config = {"tie_word_embeddings": True, "transformers_version": "5.23.0"}
_HEADS: Column = ({}, *each("tie_word_embeddings", True, False), WRITTEN_BY_5)
_SCALED = {"scale_decoder_outputs": True}
_UNSCALED = {"scale_decoder_outputs": False}
_T5_HEADS: Column = (*_HEADS[:3], {**WRITTEN_BY_5, **_SCALED}, {**WRITTEN_BY_5, **_UNSCALED})


# By model type: columns that replace or add; an empty one leaves its keys to the type.
TABLES: Mapping[str, Mapping[str, Column]] = {
    "bart": BART,
    "mbart": BART,
    "plbart": BART,
    "blenderbot": BART,
    "blenderbot-small": BART,
    "pegasus": {**BART, "ids": ({**_IDS, "eos_token_id": 1, "decoder_start_token_id": 0},)},
    "marian": {
        **BART,
        "ids": tuple({**_MARIAN_IDS, "pad_token_id": pad, "decoder_start_token_id": pad} for pad in (103, 3)),
        "padding": (),
        "target": (
            {},
            {"share_encoder_decoder_embeddings": True},
            *({**_SEPARATE, "decoder_vocab_size": size} for size in (104, 110, 171)),
        ),
    },
    # Padding takes no position here, so that a target cannot begin with it, and its id is a row of the position table.
    "m2m_100": {**BART, "ids": (_IDS,), "padding": each("pad_token_id", 0, 1, 5)},
    "t5": {**T5, "tied": _T5_HEADS},
    "mt5": {**T5, "tied": _HEADS},
    "umt5": {**T5, "tied": (*_T5_HEADS, WRITTEN_BY_5)},
}
