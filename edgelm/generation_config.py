"""Generation settings: from a checkpoint's generation_config.json or a caller's options to one checked, frozen object.

Each field's metadata is all that the command line and the docs need to offer it as an option.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from edgelm.errors import InvalidOption, UnsupportedConfig
from edgelm.option import Interval, OptionField, describe, option, read

_IDS: dict[str, Any] = {"type": int, "multiple": True, "cli": False}


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen and when generation ends; the default of each field but max_new_tokens and temperature is off.

    With num_beams above 1 the most likely sequences are searched for, and what rules the draw (temperature, top_k, top_p,
    min_p, seed) is not used.

    Raises:
        InvalidOption: a value has the wrong type or lies outside its interval (all such values are named), or values
            contradict each other.
    """

    max_new_tokens: int = option(256, "Most tokens to generate.", Interval(1))
    min_new_tokens: int = option(0, "Fewest tokens before the end.", Interval(0))
    temperature: float = option(1.0, "Below 1 sharpens, above 1 flattens; 0 is greedy.", Interval(0, 100))
    top_k: int = option(0, "Draw from the K most likely tokens; 0 is off.", Interval(0))
    top_p: float = option(1.0, "Draw from the fewest tokens that hold this probability; 1 is off.", Interval(0, 1))
    min_p: float = option(0.0, "Drop tokens less likely than this share of the likeliest; 0 is off.", Interval(0, 1))
    repetition_penalty: float = option(1.0, "Above 1 disfavours tokens already seen; 1 is off.", Interval(0.01, 100))
    no_repeat_ngram_size: int = option(0, "Repeat no sequence of this many tokens; 0 is off.", Interval(0))
    num_beams: int = option(1, "Sequences to search side by side; 1 is no beam search.", Interval(1))
    length_penalty: float = option(
        1.0, "Beams: above 0 favours long sequences, below 0 short ones.", Interval(-100, 100)
    )
    early_stopping: bool | str = option(
        False,
        "Beams: end when enough are complete (true), when a better one is unlikely (false) or impossible (never).",
        type=str,
        choices=("false", "true", "never"),
    )
    num_return_sequences: int = option(1, "Sequences to return for each prompt.", Interval(1))
    seed: int | None = option(None, "The same seed draws the same tokens.", Interval(0, 2**64 - 1), type=int)
    stop: tuple[str, ...] = option((), "End before this text; may be repeated.", type=str, multiple=True)
    json_schema: str | None = option(None, "Only JSON that meets this schema; true is any JSON.", type=str, json=True)
    regex: str | None = option(None, "Only text that matches this expression as a whole.", type=str)
    choice: tuple[str, ...] | None = option(None, "Only this text or another choice.", type=str, multiple=True)
    grammar: str | None = option(None, "Only text that fits this grammar, in Lark's form.", type=str)
    eos_token_id: tuple[int, ...] = option((), "Ids that end.", Interval(0), **_IDS)
    min_length: int = option(0, "As min_new_tokens, but the prompt counts.", Interval(0), cli=False)
    encoder_no_repeat_ngram_size: int = option(
        0, "Repeat no sequence of this many tokens of the source; 0 is off.", Interval(0), cli=False
    )
    bad_words_ids: tuple[tuple[int, ...], ...] = option((), "Sequences never made.", Interval(0), nested=True, **_IDS)
    forced_bos_token_id: int | None = option(None, "Id that comes second.", Interval(0), type=int, cli=False)
    forced_eos_token_id: tuple[int, ...] = option((), "Ids that come last at full length.", Interval(0), **_IDS)
    suppress_tokens: tuple[int, ...] = option((), "Ids that never come.", Interval(0), **_IDS)
    begin_suppress_tokens: tuple[int, ...] = option((), "Ids that never come first.", Interval(0), **_IDS)
    renormalize_logits: bool | str = option(
        False,
        "Beams: bring probabilities to a sum of 1 again after penalties and bans.",
        type=str,
        choices=("false", "true"),
        cli=False,
    )

    def __post_init__(self) -> None:
        """Check every field, and bring it to its declared type (1 to 1.0, a list to a tuple)."""
        problems: list[str] = []
        for known in _describe():
            try:
                object.__setattr__(self, known.name, read(known, getattr(self, known.name)))
            except InvalidOption as error:
                problems.append(str(error))
        problems = problems or self._contradictions()
        if problems:
            raise InvalidOption("; ".join(problems))

    @property
    def constraints(self) -> list[tuple[str, Any]]:
        """Name and value of what the text must look like; at most one."""
        given = [(name, getattr(self, name)) for name in _CONSTRAINTS]
        return [(name, value) for name, value in given if value is not None]

    @classmethod
    def from_checkpoint(cls, raw: Mapping[str, Any], start_tokens: int | None = None) -> GenerationConfig:
        """Read a checkpoint's generation_config.json as transformers 5 understands it (null is the same as absent).

        Without `"do_sample": true` nothing is drawn. What it asks for and we lack is listed by `unsupported_keys`.

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
        changes = {name: raw[name] for name in _checkpoint_fields() if raw.get(name) is not None}
        if raw.get("stop_strings") is not None:
            changes["stop"] = raw["stop_strings"]
        if sample:
            # transformers fills an absent top_k with 50 (_get_default_generation_params), so its authors saw 50.
            changes.setdefault("top_k", 50)
            changes.pop("num_beams", None)
        else:
            changes["temperature"] = 0.0
        if start_tokens is not None and isinstance(raw.get("max_length"), int) and raw["max_length"] > start_tokens:
            changes.setdefault("max_new_tokens", raw["max_length"] - start_tokens)
        try:
            return cls(**changes)
        except InvalidOption as error:
            raise UnsupportedConfig(f"generation_config.json: {error}; correct or remove the entry") from error

    def replace(self, **changes: Any) -> GenerationConfig:
        """A copy with some fields changed; None leaves a field as it is. Beams switch off a temperature set before.

        Raises:
            InvalidOption: an unknown option (with the nearest known name), a wrong type, a value out of range, or values
                that contradict each other.
        """
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
                raise InvalidOption(f"unknown generation option {name!r}: {hint}")
        given = {name: value for name, value in changes.items() if value is not None}
        changed = dataclasses.replace(self, **given)
        if changed.num_beams == 1:
            return changed
        _refuse_drawing(changed, given)
        return dataclasses.replace(changed, temperature=0.0)

    def _contradictions(self) -> list[str]:
        beams, wanted = self.num_beams, self.num_return_sequences
        found: list[str] = []
        if 1 < beams < wanted:
            found.append(
                f"num_return_sequences {wanted} is more than num_beams {beams} can find; give at least as many beams"
            )
        if beams == 1 < wanted and self.temperature == 0:
            found.append(
                f"greedy decoding has one result, and num_return_sequences is {wanted}: "
                f"give num_beams {wanted} or more, or a temperature above 0"
            )
        if beams > 1 and self.stop:
            found.append(f"stop cannot end a beam search (num_beams {beams}): drop stop, or give num_beams 1")
        if len(self.constraints) > 1:
            names = " and ".join(name for name, _ in self.constraints)
            found.append(f"{names} exclude each other: give one of them")
        if self.choice == ():
            found.append("choice is empty: give at least one text")
        return found


def option_fields() -> tuple[OptionField, ...]:
    """The fields a command line should offer, in the order of their declaration."""
    return tuple(known for known, f in zip(_describe(), fields(GenerationConfig), strict=True) if f.metadata["cli"])


def unsupported_keys(raw: Mapping[str, Any]) -> list[str]:
    """The keys of a generation_config.json that would change transformers' output and have no effect here, sorted.

    A key nobody knows is among them: what it does cannot be judged.
    """
    understood = {*_checkpoint_fields(), "do_sample", "stop_strings"} | _WITHOUT_EFFECT
    if raw.get("do_sample"):
        understood.remove("num_beams")  # beams that are drawn
    asked = {key for key, value in raw.items() if value is not None and value not in _NEUTRAL.get(key, ())}
    return sorted(asked - understood)


# What a text must look like; one at a time.
_CONSTRAINTS = ("json_schema", "regex", "choice", "grammar")

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
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "guidance_scale": (1.0,),
    "penalty_alpha": (0.0,),
    "token_healing": (False,),
    "sequence_bias": ([], {}),
}


def _refuse_drawing(config: GenerationConfig, given: Mapping[str, Any]) -> None:
    # Only what the caller gave: a checkpoint's own temperature is for when nobody asks for beams.
    off = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    wrong = [name for name, value in off.items() if name in given and getattr(config, name) != value]
    if wrong:
        raise InvalidOption(
            f"{' and '.join(wrong)} cannot be combined with num_beams {config.num_beams}, a search that draws nothing: "
            f"drop {' and '.join(wrong)}, or give num_beams 1"
        )


def _checkpoint_fields() -> list[str]:
    # These are ours: transformers keeps no seed in the file, calls the second one stop_strings, and has no constraints.
    ours = ("seed", "stop", *_CONSTRAINTS)
    return [f.name for f in fields(GenerationConfig) if f.name not in ours]


def _describe() -> list[OptionField]:
    return [describe(f) for f in fields(GenerationConfig)]
