"""Generation settings: a caller's options as one checked, frozen object.

Each field's metadata is all that the command line and the docs need to offer it as an option.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from edgelm.errors import InvalidOption
from edgelm.logits import Processor
from edgelm.option import (
    Interval,
    OptionField,
    describe,
    option,
    read,
    read_bias,
    read_functions,
    read_json,
    read_words,
)

_IDS: dict[str, Any] = {"type": int, "multiple": True, "cli": False}
_TEXTS: dict[str, Any] = {"type": str, "multiple": True}

# Called after each token with the ids so far (prompt included) and the text that it settled; true ends the generation.
Criterion: TypeAlias = Callable[[Sequence[int], str], bool]
_FUNCTIONS: dict[str, Any] = {"reader": read_functions, "multiple": True, "cli": False}


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen and when generation ends; the default of each field but max_new_tokens and temperature is off.

    With num_beams above 1 the most likely sequences are searched for, and what rules the draw (temperature, the filters of
    sampling.py, seed) is not used; nor is it at temperature 0. docs/generation.md tells where each option's meaning comes from.

    Raises:
        InvalidOption: a value has the wrong type or lies outside its interval (all such values are named), or values
            contradict each other.
    """

    max_new_tokens: int = option(256, "Most tokens to generate.", Interval(1))
    min_new_tokens: int = option(0, "Fewest tokens before the end.", Interval(0))
    temperature: float = option(1.0, "Below 1 sharpens, above 1 flattens; 0 is greedy.", Interval(0, 100))
    dynatemp_range: float = option(
        0.0, "Temperature moves this far, less when sure; 0 is off.", Interval(0, 100), filter=True, ours=True
    )
    dynatemp_exponent: float = option(1.0, "Above 1, it rises only when very unsure.", Interval(0, 100), ours=True)
    top_k: int = option(0, "Draw from the K most likely tokens; 0 is off.", Interval(0), filter=True)
    top_p: float = option(
        1.0, "Draw from the fewest tokens that hold this probability; 1 is off.", Interval(0, 1), filter=True
    )
    min_p: float = option(
        0.0, "Drop tokens less likely than this share of the likeliest; 0 is off.", Interval(0, 1), filter=True
    )
    typical_p: float = option(
        1.0,
        "Draw from the tokens of ordinary surprise that hold this probability; 1 is off.",
        Interval(0, 1),
        filter=True,
    )
    top_n_sigma: float = option(
        0.0, "Drop logits this many sigmas below the highest; 0 is off.", Interval(0, 100), filter=True, ours=True
    )
    epsilon_cutoff: float = option(0.0, "Drop tokens less likely than this; 0 is off.", Interval(0, 1), filter=True)
    eta_cutoff: float = option(
        0.0, "The same, and less where many tokens are likely; 0 is off.", Interval(0, 1), filter=True
    )
    xtc_probability: float = option(
        0.0, "How often to drop the likeliest tokens; 0 is never.", Interval(0, 1), filter=True, ours=True
    )
    xtc_threshold: float = option(0.1, "What xtc drops has this probability at least.", Interval(0, 0.5), ours=True)
    mirostat_tau: float = option(
        0.0, "Keep surprise near this many bits, in place of filters; 0 is off.", Interval(0, 100), ours=True
    )
    mirostat_eta: float = option(0.1, "How fast mirostat corrects.", Interval(0, 1), ours=True)
    repetition_penalty: float = option(1.0, "Above 1 disfavours tokens already seen; 1 is off.", Interval(0.01, 100))
    presence_penalty: float = option(
        0.0, "Subtract from logits of tokens already seen; 0 is off.", Interval(-100, 100), ours=True
    )
    frequency_penalty: float = option(
        0.0, "The same for each time they were seen; 0 is off.", Interval(-100, 100), ours=True
    )
    penalty_window: int = option(
        0, "Last tokens that count as seen, prompt included; 0 is all.", Interval(0), ours=True
    )
    dry_multiplier: float = option(
        0.0, "DRY: weight against longer repetitions; 0 is off.", Interval(0, 100), ours=True
    )
    dry_base: float = option(1.75, "DRY: factor for each token of the repetition.", Interval(1, 100), ours=True)
    dry_allowed_length: int = option(2, "DRY: shorter repetitions are let be.", Interval(1), ours=True)
    dry_window: int = option(0, "DRY: last tokens to look for repetitions in; 0 is all.", Interval(0), ours=True)
    dry_sequence_breakers: tuple[str | int, ...] = option(
        ("\n", ":", '"', "*"),
        "DRY: no repetition reaches over this text; may be repeated.",
        **_TEXTS,
        reader=read_words,
        ours=True,
    )
    logit_bias: tuple[tuple[tuple[int, ...], float], ...] = option(
        (),
        "ID=NUMBER to add to a token's logit; may be repeated.",
        Interval(-1_000_000, 1_000_000),
        **_TEXTS,
        reader=read_bias,
        ours=True,
    )
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
    seed: int | None = option(None, "The same seed draws the same tokens.", Interval(0, 2**64 - 1), type=int, ours=True)
    stop: tuple[str, ...] = option((), "End before this text; may be repeated.", **_TEXTS, ours=True)
    stop_token_ids: tuple[int, ...] = option(
        (), "End at this id too; may be repeated.", Interval(0), **(_IDS | {"cli": True}), ours=True
    )
    max_time: float | None = option(
        None, "End after the token at which so many seconds are over.", Interval(0), type=float
    )
    json_schema: str | None = option(
        None, "Only JSON that meets this schema; true is any JSON.", type=str, reader=read_json, ours=True
    )
    regex: str | None = option(None, "Only text that matches this expression as a whole.", type=str, ours=True)
    choice: tuple[str, ...] | None = option(None, "Only this text or another choice.", **_TEXTS, ours=True)
    grammar: str | None = option(None, "Only text that fits this grammar, in Lark's form.", type=str, ours=True)
    prompt_lookup_num_tokens: int = option(
        0,
        "Guess up to so many tokens from what stood before, and verify them together; 0 is off.",
        Interval(0, 64),
        ours=True,
    )
    num_assistant_tokens: int | None = option(
        None,
        "The same by the draft model, where there is one: 16 if not given; 0 is off.",
        Interval(0, 64),
        type=int,
        ours=True,
    )
    logprobs: int | None = option(
        None,
        "Tell log probabilities of the tokens, and of this many likeliest at each.",
        Interval(0, 1000),
        type=int,
        ours=True,
    )
    echo: bool | str = option(False, "Begin the text with the prompt.", type=str, choices=("false", "true"), ours=True)
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
    logits_processors: tuple[Processor, ...] = option(
        (), "Functions (ids, logits) that return logits.", **_FUNCTIONS, ours=True
    )
    stopping_criteria: tuple[Criterion, ...] = option(
        (), "Functions (ids, text) that tell the end.", **_FUNCTIONS, ours=True
    )

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """All ids that end."""
        return (*self.eos_token_id, *self.stop_token_ids)

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

    def replace(self, **changes: Any) -> GenerationConfig:
        """A copy with some fields changed; None leaves a field as it is.

        Beams switch off a temperature that was set before, and mirostat the filters.

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
        off = {f.name: f.default for f in fields(self) if f.metadata["filter"]}
        if changed.num_beams > 1:
            what = f"num_beams {changed.num_beams}, a search that draws nothing"
            _refuse(changed, given, {"temperature": 0.0, **off, "mirostat_tau": 0.0}, what, "num_beams 1")
            return dataclasses.replace(changed, temperature=0.0)
        if changed.mirostat_tau:
            _refuse(
                changed, given, off, f"mirostat_tau {changed.mirostat_tau}, which takes their place", "mirostat_tau 0"
            )
            return dataclasses.replace(changed, **off)
        return changed

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
        if len(self.constraints) > 1:
            names = " and ".join(name for name, _ in self.constraints)
            found.append(f"{names} exclude each other: give one of them")
        guesses = " and ".join(name for name in _GUESSES if getattr(self, name))
        if " " in guesses:
            found.append(f"{guesses} are two ways to guess: give one of them")
        elif guesses and beams > 1:
            found.append(
                f"{guesses} cannot speed up a beam search (num_beams {beams}): drop {guesses}, or give num_beams 1"
            )
        if self.choice == ():
            found.append("choice is empty: give at least one text")
        if self.min_new_tokens > self.max_new_tokens:
            found.append(
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}; lower one or raise the other"
            )
        for name, what in _NOT_WITH_BEAMS.items():
            value = getattr(self, name)
            if beams > 1 and value is not None and value is not False and value != ():
                found.append(
                    f"{name} cannot {what} a beam search (num_beams {beams}): drop {name}, or give num_beams 1"
                )
        return found


def option_fields() -> tuple[OptionField, ...]:
    """The fields a command line should offer, in the order of their declaration."""
    return tuple(known for known, f in zip(_describe(), fields(GenerationConfig), strict=True) if f.metadata["cli"])


# What a text must look like; one at a time.
_CONSTRAINTS = ("json_schema", "regex", "choice", "grammar")

# What beams have no use for: their texts are known only at the end.
_NOT_WITH_BEAMS: Mapping[str, str] = {
    "stop": "end", "max_time": "end", "stopping_criteria": "end", "logprobs": "explain", "echo": "precede",
}  # fmt: skip

# Speculative decoding.
_GUESSES = ("prompt_lookup_num_tokens", "num_assistant_tokens")


def _refuse(
    config: GenerationConfig, given: Mapping[str, Any], off: Mapping[str, Any], what: str, instead: str
) -> None:
    # Only what the caller gave: a checkpoint's own settings are for when nobody asks for something else.
    wrong = [name for name, value in off.items() if name in given and getattr(config, name) != value]
    if wrong:
        names = " and ".join(wrong)
        raise InvalidOption(f"{names} cannot be combined with {what}: drop {names}, or give {instead}")


def _describe() -> list[OptionField]:
    return [describe(f) for f in fields(GenerationConfig)]
