"""A checkpoint's generation_config.json: what it sets, as transformers 5 understands it, and what of it this runtime lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from edgelm.errors import InvalidOption, UnsupportedConfig
from edgelm.generation_config import GenerationConfig


def read_generation_config(raw: Mapping[str, Any], start_tokens: int | None = None) -> GenerationConfig:
    """The settings of a checkpoint (null is the same as absent); without `"do_sample": true` nothing is drawn.

    What it asks for and we lack is listed by `unsupported_keys`.

    Args:
        raw: the contents of the file.
        start_tokens: how many tokens every sequence starts with, where that is known (1 in an encoder-decoder);
            max_length, which counts them, then stands in for an absent max_new_tokens.

    Raises:
        UnsupportedConfig: values of the wrong type or outside their intervals, all in one message.
    """
    sample = raw.get("do_sample")
    if sample not in (None, True, False):
        raise UnsupportedConfig(f"generation_config.json: do_sample is {sample!r}, but must be true or false")
    settings = {name: raw[name] for name in _shared_fields() if raw.get(name) is not None}
    settings |= {ours: raw[theirs] for theirs, ours in _RENAMED.items() if raw.get(theirs) is not None}
    if sample:
        # transformers fills an absent top_k with 50 (_get_default_generation_params), so its authors saw 50.
        settings.setdefault("top_k", 50)
        settings.pop("num_beams", None)
    else:
        settings["temperature"] = 0.0
    if start_tokens is not None and isinstance(raw.get("max_length"), int) and raw["max_length"] > start_tokens:
        settings.setdefault("max_new_tokens", raw["max_length"] - start_tokens)
    try:
        return GenerationConfig(**settings)
    except InvalidOption as error:
        raise UnsupportedConfig(f"generation_config.json: {error}; correct or remove the entry") from error


def unsupported_keys(raw: Mapping[str, Any]) -> list[str]:
    """The keys of a generation_config.json that would change transformers' output and have no effect here, sorted.

    A key nobody knows is among them: what it does cannot be judged.
    """
    understood = {*_shared_fields(), *_RENAMED, "do_sample"} | _WITHOUT_EFFECT
    if raw.get("do_sample"):
        understood.remove("num_beams")  # beams that are drawn
    asked = {key for key, value in raw.items() if value is not None and value not in _NEUTRAL.get(key, ())}
    return sorted(asked - understood)


# Keys of transformers 5 that cannot change which tokens come out of this runtime.
_WITHOUT_EFFECT = frozenset(
    # Where the file came from; ids that only matter to padding, to the tokenizer or to an encoder-decoder's start.
    {"transformers_version", "_from_model_config", "_commit_hash", "pad_token_id", "bos_token_id"}
    | {"decoder_start_token_id"}
    # A length that max_new_tokens overrides, there as here.
    | {"max_length"}
    # What is returned besides the tokens.
    | {"output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"}
    # How it is computed: caches, compilation, and speculation that gives the same distribution.
    | {"use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory"}
    | {"compile_config", "disable_compile", "continuous_batching_config", "is_assistant", "num_assistant_tokens"}
    | {"num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit", "use_mtp"}
    | {"assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size"}
    | {"speculation_type", "assistant_ensemble_weight"}
    # Repairs values that are an error here.
    | {"remove_invalid_values"}
)

# Values at which a key that is not implemented does nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "guidance_scale": (1.0,),
    "penalty_alpha": (0.0,),
    "token_healing": (False,),
}

# Keys of a checkpoint that have another name here.
_RENAMED: Mapping[str, str] = {"stop_strings": "stop", "sequence_bias": "logit_bias"}


def _shared_fields() -> list[str]:
    return [f.name for f in fields(GenerationConfig) if not f.metadata["ours"]]
