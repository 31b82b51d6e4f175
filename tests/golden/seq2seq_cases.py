"""The table of encoder-decoder goldens: what each tiny checkpoint is like, and which settings a reader must not get wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.architectures.random_configs import Config
from tests.architectures.seq2seq_configs import CLASS_NAMES


@dataclass(frozen=True)
class Seq2SeqGolden:
    """One case.

    Attributes:
        name: its folder: the model type, then what is special.
        config: config.json.
        generation: generation_config.json; None where config.json has these settings, as first releases have it.
        sensitive: named changes to the config that must change the logits.
    """

    name: str
    config: Config
    generation: Config | None
    sensitive: Mapping[str, Config] = field(default_factory=dict[str, Config])


# As the settings of published checkpoints have it, but for the length: a first token and 12 more.
LENGTH = {"max_length": 13, "num_beams": 4}
_SUMMARY = {"length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 2, "min_length": 4}
_VARIED = {"no_repeat_ngram_size": 2}  # random weights like to say the same again and again
_DIALOGUE = {
    "length_penalty": 0.65,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 3,
    "min_length": 5,
}

_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
_OTHER_IDS = {**_IDS, "bos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 1}
_BART: Config = {
    "vocab_size": 104,
    "d_model": 24,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 27,
    "activation_function": "gelu",
    "max_position_embeddings": 20,
    "scale_embedding": False,
}
_RELU = {"activation_function": {"activation_function": "relu"}}
_SCALED = {"scale_embedding": {"scale_embedding": True}}
_UNSCALED = {"scale_embedding": {"scale_embedding": False}}
_MARIAN_IDS = {"pad_token_id": 103, "eos_token_id": 0, "decoder_start_token_id": 103}

# Epsilons are large enough that a norm without its epsilon, or with another one, is seen.
_T5: Config = {
    "vocab_size": 104,
    "d_model": 20,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "d_kv": 8,
    "d_ff": 28,
    "feed_forward_proj": "relu",
    "layer_norm_epsilon": 0.1,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_OTHER_T5 = {
    "layer_norm_epsilon": {"layer_norm_epsilon": 1e-6},
    "distances": {"relative_attention_max_distance": 7},
}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_OTHER_GATE = {"feed_forward_proj": {"feed_forward_proj": "gated-silu"}}


def seq2seq_golden_cases() -> dict[str, Seq2SeqGolden]:
    """Every case by name."""
    return {case.name: case for case in (*_bart_and_kin(), *_translators(), *_t5_and_kin())}


def _bart_and_kin() -> tuple[Seq2SeqGolden, ...]:
    scaled, forced = {**_BART, "scale_embedding": True}, {"forced_bos_token_id": 0, "forced_eos_token_id": 2}
    in_config = {"num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 2, "max_length": 13}
    return (
        _case("bart", {**_BART, **_IDS}, {**_SUMMARY, **forced}, {**_RELU, **_SCALED}),
        _case("bart-untied", {**_BART, **_IDS, "tie_word_embeddings": False, "decoder_layers": 1}, _VARIED),
        _case("mbart", {**scaled, **_IDS}, {"forced_bos_token_id": 9, "early_stopping": True, **_VARIED}, _UNSCALED),
        _case("plbart", {**scaled, **_IDS, **in_config, "activation_function": "relu"}, None, _UNSCALED),
        _case("blenderbot", {**scaled, **_OTHER_IDS}, {**_DIALOGUE, "forced_eos_token_id": 2}, {**_RELU, **_UNSCALED}),
        _case(
            "blenderbot-small",
            {**_BART, **_OTHER_IDS},
            {**_DIALOGUE, "repetition_penalty": 1.2},
            {**_RELU, **_SCALED},
        ),
        _case(
            "pegasus",
            {**scaled, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
            {"length_penalty": 0.8, "forced_eos_token_id": 1, **_VARIED},
            {**_RELU, **_UNSCALED},
        ),
    )


def _translators() -> tuple[Seq2SeqGolden, ...]:
    marian = {**_BART, **_MARIAN_IDS, "activation_function": "swish", "scale_embedding": True}
    no_padding = {"bad_words_ids": [[103]], "forced_eos_token_id": 0, "renormalize_logits": True, **_VARIED}
    separate = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 110, "encoder_layers": 1}
    counted = {"pad_token_id": {"pad_token_id": 4}}  # positions are counted from the id of padding on
    return (
        _case("marian", marian, no_padding, {**_RELU, **_UNSCALED}),
        _case("marian-two-vocabularies", {**marian, **separate}, {**no_padding, "early_stopping": True}),
        _case(
            "m2m_100",
            {**_BART, **_IDS, "activation_function": "relu", "scale_embedding": True},
            {"forced_bos_token_id": 9, "early_stopping": True, **_VARIED},
            {**_UNSCALED, **counted},
        ),
    )


def _t5_and_kin() -> tuple[Seq2SeqGolden, ...]:
    # What transformers 5 writes, be the head tied or not.
    written_by_5 = {**_GATED, "tie_word_embeddings": True, "transformers_version": "5.23.0"}
    unscaled = {"the head's scale": {"tie_word_embeddings": False}}
    return (
        _case("t5", _T5, {}, {**_OTHER_T5, **unscaled, "feed_forward_proj": {"feed_forward_proj": "gelu"}}),
        _case(
            "t5-gated",
            {**_T5, **_GATED},
            {"early_stopping": "never", "length_penalty": 1.5},
            {**_OTHER_T5, **_OTHER_GATE},
        ),
        _case(
            "mt5", {**_T5, **_GATED, "num_decoder_layers": 1}, {"no_repeat_ngram_size": 2}, {**_OTHER_T5, **_OTHER_GATE}
        ),
        _case("umt5", {**_T5, **written_by_5}, {"length_penalty": 0.0}, {**_OTHER_T5, **_OTHER_GATE}),
    )


def _case(
    name: str, config: Config, generation: Config | None, sensitive: Mapping[str, Config] | None = None
) -> Seq2SeqGolden:
    """A case of the longest model type that its name begins with."""
    model_type = max((known for known in CLASS_NAMES if f"{name}-".startswith(f"{known}-")), key=len)
    named = {"model_type": model_type, "architectures": [CLASS_NAMES[model_type]], "is_encoder_decoder": True, **config}
    ids = {key: value for key, value in config.items() if key.endswith("_token_id")}
    settings = None if generation is None else {**ids, **LENGTH, **generation}
    return Seq2SeqGolden(name, named, settings, sensitive or {})
