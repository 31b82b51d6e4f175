"""The table of encoder goldens: what each tiny checkpoint is like, and which settings a reader must not get wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.architectures.encoder_configs import PREFIXES
from tests.architectures.random_configs import Config, base_config


@dataclass(frozen=True)
class EncoderGolden:
    """One case: a base and every head the architecture defines on it.

    Attributes:
        name: its folder: the model type, then what is special.
        config: config.json but for what depends on the class.
        sensitive: named changes to the config that must change the answers of every class.
        heads: by class, named changes to the config that must change its answers.
    """

    name: str
    config: Config
    sensitive: Mapping[str, Config] = field(default_factory=dict[str, Config])
    heads: Mapping[str, Mapping[str, Config]] = field(default_factory=dict[str, Mapping[str, Config]])


# Epsilons are large enough that a norm without its epsilon, or with another one, is seen.
_BASE: Config = {
    "vocab_size": 104,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 44,
    "hidden_act": "gelu",
    "max_position_embeddings": 40,
    "layer_norm_eps": 0.1,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
_COMMON = {"layer_norm_eps": {"layer_norm_eps": 1e-12}, "hidden_act": {"hidden_act": "relu"}}
_ODD = {"hidden_size": 30, "num_attention_heads": 2, "intermediate_size": 45}  # no multiples of what kernels like
_UNTIED = {"tie_word_embeddings": False}


def encoder_golden_cases() -> dict[str, EncoderGolden]:
    """Every case by name."""
    cases = (*_bert_and_kin(), *_deberta(), *_modern(), *_decoders())
    return {case.name: case for case in cases}


def _bert_and_kin() -> tuple[EncoderGolden, ...]:
    shifted = {"pad_token_id": {"pad_token_id": 3}}
    roberta = {**_BASE, "pad_token_id": 1, "type_vocab_size": 1}
    distilbert = {"dim": 36, "n_heads": 3, "n_layers": 2, "hidden_dim": 41, "activation": "gelu"}
    distilbert |= {key: _BASE[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")}
    albert = {**_BASE, "embedding_size": 20, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 1}
    mpnet = {**_without(_BASE, "type_vocab_size"), **_ODD, "pad_token_id": 1, "relative_attention_num_buckets": 32}
    return (
        _case("bert", _BASE, _COMMON),
        _case("roberta", roberta, {**_COMMON, **shifted}),
        _case("xlm-roberta", {**roberta, "type_vocab_size": 3}, _COMMON),
        _case("camembert", {**roberta, **_ODD}, _COMMON),
        _case("electra", {**_BASE, **_ODD, "embedding_size": 22}, _COMMON),
        _case("distilbert", distilbert, {"activation": {"activation": "relu"}}),
        _case("albert", albert, {**_COMMON, "groups": {"num_hidden_groups": 1}}),
        _case("mpnet", mpnet, _COMMON),
    )


def _deberta() -> tuple[EncoderGolden, ...]:
    both = {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_biased_input": False}
    base = {**_BASE, **both, "type_vocab_size": 0}
    terms = {"c2p": {"pos_att_type": "c2p"}, "p2c": {"pos_att_type": "p2c"}}
    version3 = {
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 8,
        "max_relative_positions": 16,
    }
    own_keys = {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2}
    convolution = {"conv_kernel_size": 3, "conv_act": "gelu", "legacy": False}
    buckets = {"buckets": {"position_buckets": 10}, "norm": {"norm_rel_ebd": "none"}}
    return (
        _case("deberta", {**base, "max_relative_positions": 8}, {**_COMMON, **terms}),
        _case("deberta-types", {**base, "position_biased_input": True, "type_vocab_size": 2, **_ODD, **_UNTIED}),
        _case("deberta-v2", {**base, **version3}, {**_COMMON, **terms, **buckets}),
        _case("deberta-v2-own-keys", {**base, **own_keys, "max_relative_positions": 8}, terms),
        _case("deberta-v2-convolution", {**base, **version3, **convolution, **_ODD}),
    )


def _modern() -> tuple[EncoderGolden, ...]:
    base = _without(_BASE, "layer_norm_eps", "hidden_act", "type_vocab_size")
    modern = {**base, "norm_eps": 0.1, "num_hidden_layers": 3, "local_attention": 8}
    modern |= {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "global_attn_every_n_layers": 2}
    biases = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
    rope = {"rope_theta": 5e4, "rope_type": "default"}
    rotary = {
        **base,
        "rms_norm_eps": 0.1,
        "hidden_act": "silu",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_theta": 1e4,
    }
    return (
        _case(
            "modernbert",
            modern,
            {
                "norm_eps": {"norm_eps": 1e-5},
                "window": {"local_attention": 6},
                "which layers": {"global_attn_every_n_layers": 3},
                "one theta": {"global_rope_theta": 1e4},
                "the other": {"local_rope_theta": 160000.0},
            },
            {"ModernBertForSequenceClassification": {"pooling": {"classifier_pooling": "mean"}}},
        ),
        _case(
            "modernbert-biases",
            {**modern, **biases, **_ODD, **_UNTIED, "num_attention_heads": 3, "classifier_pooling": "mean"},
        ),
        _case(
            "eurobert",
            {**rotary, "classifier_pooling": "late", **_UNTIED},
            {"rms_norm_eps": {"rms_norm_eps": 1e-5}, "rope_theta": {"rope_parameters": rope}},
            {"EuroBertForSequenceClassification": {"pooling": {"classifier_pooling": "bos"}}},
        ),
    )


def _decoders() -> tuple[EncoderGolden, ...]:
    """Decoders that serve as encoders; what else they can be told stands in their own table."""
    small = {"vocab_size": 104, "intermediate_size": 44, "torch_dtype": "float16", "pad_token_id": 0}
    small |= {"rope_theta": 10000.0, "rms_norm_eps": 0.1}
    small |= {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    window = {"sliding_window": 12}
    return tuple(
        _case(f"{model_type}-as-encoder", {**_without(base_config(model_type), "architectures"), **small, **own})
        for model_type, own in (
            ("llama", {}),
            ("mistral", {"head_dim": 32, **window}),
            ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, **window}),
            ("qwen3", {"head_dim": 16}),
        )
    )


def _case(
    name: str,
    config: Config,
    sensitive: Mapping[str, Config] | None = None,
    heads: Mapping[str, Mapping[str, Config]] | None = None,
) -> EncoderGolden:
    """A case of the longest model type that its name begins with."""
    model_type = max((known for known in PREFIXES if f"{name}-".startswith(f"{known}-")), key=len)
    return EncoderGolden(name, {"model_type": model_type, **config}, sensitive or {}, heads or {})


def _without(config: Config, *keys: str) -> Config:
    return {name: value for name, value in config.items() if name not in keys}
