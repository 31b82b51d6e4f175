"""Generation settings: from a checkpoint's generation_config.json or a caller's options to one checked, frozen object.

Each field's metadata is all that the command line and the docs need to offer it as an option.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, cast

from edgelm.errors import InvalidOption, UnsupportedConfig


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        """True when the value lies inside; never for NaN and infinity."""
        return self.low <= value <= self.high and value != math.inf

    def __str__(self) -> str:
        """In the usual notation, as messages and help texts show it."""
        return f"[{self.low}, inf)" if self.high == math.inf else f"[{self.low}, {self.high}]"


@dataclass(frozen=True)
class OptionField:
    """One field of GenerationConfig as a command line offers it; `multiple` options may be given again and again."""

    name: str
    default: Any
    type: type[int] | type[float] | type[str]
    range: Interval | None
    help: str
    multiple: bool


def _option(default: Any, help_text: str, allowed: Interval | None = None, **extra: Any) -> Any:
    # `extra` overrides what the default value tells: type (of one item), multiple, cli.
    metadata: dict[str, Any] = {"help": help_text, "range": allowed, "type": type(default)}
    metadata |= {"multiple": False, "cli": True, **extra}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen and when generation ends; the default of each sampling field switches that field off.

    Raises:
        InvalidOption: a value has the wrong type or lies outside its interval; all such values are named.
    """

    max_new_tokens: int = _option(256, "Most tokens to generate.", Interval(1))
    temperature: float = _option(1.0, "Below 1 sharpens, above 1 flattens; 0 is greedy.", Interval(0, 100))
    top_k: int = _option(0, "Draw from the K most likely tokens; 0 is off.", Interval(0))
    top_p: float = _option(1.0, "Draw from the fewest tokens that hold this probability; 1 is off.", Interval(0, 1))
    min_p: float = _option(0.0, "Drop tokens less likely than this share of the likeliest; 0 is off.", Interval(0, 1))
    repetition_penalty: float = _option(1.0, "Above 1 disfavours tokens already seen; 1 is off.", Interval(0.01, 100))
    seed: int | None = _option(None, "The same seed draws the same tokens.", Interval(0, 2**64 - 1), type=int)
    stop: tuple[str, ...] = _option((), "End before this text; may be repeated.", type=str, multiple=True)
    eos_token_id: tuple[int, ...] = _option((), "Ids that end.", Interval(0), type=int, multiple=True, cli=False)

    def __post_init__(self) -> None:
        """Check every field, and bring it to its declared type (1 to 1.0, a list to a tuple)."""
        problems: list[str] = []
        for option in _describe():
            try:
                object.__setattr__(self, option.name, _checked(option, getattr(self, option.name)))
            except InvalidOption as error:
                problems.append(str(error))
        if problems:
            raise InvalidOption("; ".join(problems))

    @classmethod
    def from_checkpoint(cls, raw: Mapping[str, Any]) -> GenerationConfig:
        """Read a checkpoint's generation_config.json as transformers 5 understands it (null is the same as absent).

        Without `"do_sample": true` the result is greedy. What it asks for and we lack is listed by `unsupported_keys`.

        Raises:
            UnsupportedConfig: values of the wrong type or outside their intervals, all in one message.
        """
        sample = raw.get("do_sample")
        if sample not in (None, True, False):
            raise UnsupportedConfig(f"generation_config.json: do_sample is {sample!r}, but must be true or false")
        changes = {name: raw[name] for name in _checkpoint_fields() if raw.get(name) is not None}
        if raw.get("stop_strings") is not None:
            changes["stop"] = raw["stop_strings"]
        if sample:
            # transformers fills an absent top_k with 50 (_get_default_generation_params), so its authors saw 50.
            changes.setdefault("top_k", 50)
        else:
            changes["temperature"] = 0.0
        try:
            return cls(**changes)
        except InvalidOption as error:
            raise UnsupportedConfig(f"generation_config.json: {error}; correct or remove the entry") from error

    def replace(self, **changes: Any) -> GenerationConfig:
        """A copy with some fields changed; None leaves a field as it is.

        Raises:
            InvalidOption: an unknown option (with the nearest known name), a wrong type or a value out of range.
        """
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
                raise InvalidOption(f"unknown generation option {name!r}: {hint}")
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


def option_fields() -> tuple[OptionField, ...]:
    """The fields a command line should offer, in the order of their declaration."""
    return tuple(option for option, f in zip(_describe(), fields(GenerationConfig), strict=True) if f.metadata["cli"])


def unsupported_keys(raw: Mapping[str, Any]) -> list[str]:
    """The keys of a generation_config.json that would change transformers' output and have no effect here, sorted.

    A key nobody knows is among them: what it does cannot be judged.
    """
    understood = {*_checkpoint_fields(), "do_sample", "stop_strings"} | _WITHOUT_EFFECT
    asked = {key for key, value in raw.items() if value is not None and value not in _NEUTRAL.get(key, ())}
    return sorted(asked - understood)


# Keys of transformers 5 that cannot change which tokens come out of this runtime.
_WITHOUT_EFFECT = frozenset(
    # Where the file came from; ids that only matter to padding, to the tokenizer or to an encoder-decoder's start.
    {"transformers_version", "_from_model_config", "_commit_hash", "pad_token_id", "bos_token_id"}
    | {"decoder_start_token_id"}
    # A length that max_new_tokens overrides, there as here.
    | {"max_length"}
    # What beam search alone reads; num_beams itself is reported.
    | {"early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"}
    # What is returned besides the tokens.
    | {"output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"}
    # How it is computed: caches, compilation, and speculation that gives the same distribution.
    | {"use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory"}
    | {"compile_config", "disable_compile", "continuous_batching_config", "is_assistant", "num_assistant_tokens"}
    | {"num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit", "use_mtp"}
    | {"assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size"}
    | {"speculation_type", "assistant_ensemble_weight"}
    # Shifts all logits alike, or repairs values that are an error here.
    | {"renormalize_logits", "remove_invalid_values"}
)

# Values at which a key that is not implemented does nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "guidance_scale": (1.0,),
    "penalty_alpha": (0.0,),
    "token_healing": (False,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ([], {}),
}


def _checkpoint_fields() -> list[str]:
    # These two are ours: transformers keeps no seed in the file and calls the other one stop_strings.
    return [f.name for f in fields(GenerationConfig) if f.name not in ("seed", "stop")]


def _describe() -> list[OptionField]:
    keys = ("type", "range", "help", "multiple")
    return [OptionField(f.name, f.default, *(f.metadata[key] for key in keys)) for f in fields(GenerationConfig)]


def _checked(option: OptionField, value: Any) -> Any:
    if option.multiple:
        if isinstance(value, (str, Integral)):
            value = (value,)
        if not isinstance(value, (list, tuple)):
            raise _refusal(option, value)
        return tuple(_checked_item(option, item) for item in cast("tuple[Any, ...]", value))
    return None if value is None and option.default is None else _checked_item(option, value)


def _checked_item(option: OptionField, value: Any) -> Any:
    wanted = {int: Integral, float: Real, str: str}[option.type]
    # bool is an int to Python, but `top_k=True` is a mistake.
    if type(value) is bool or not isinstance(value, wanted) or value == "":
        raise _refusal(option, value)
    number_or_text = cast("Any", value)
    if option.range is not None and number_or_text not in option.range:
        raise _refusal(option, value)
    return option.type(number_or_text)


def _refusal(option: OptionField, value: Any) -> InvalidOption:
    noun = {int: "an integer", float: "a number", str: "a non-empty text"}[option.type]
    wanted = noun if option.range is None else f"{noun} in {option.range}"
    return InvalidOption(f"option {option.name} is {value!r}, but must be {wanted}")
