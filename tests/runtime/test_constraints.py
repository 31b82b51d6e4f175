"""Processors that forbid and force: hand-made logits in, what is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgelm.constraints import (
    Span,
    bad_words,
    constraints,
    force_at,
    no_repeat_ngram,
    something_left,
    suppress_at,
    suppress_until,
)
from edgelm.errors import GenerationError, InvalidOption
from edgelm.generation_config import GenerationConfig
from edgelm.logits import Processor

VOCAB = 8


def left(process: Processor | Sequence[Processor], ids: Sequence[int]) -> list[int]:
    """The tokens that may follow `ids`."""
    logits = np.arange(1, VOCAB + 1).astype(np.float32)
    for one in process if isinstance(process, Sequence) else [process]:
        logits = one(ids, logits)
    return np.flatnonzero(logits > -np.inf).tolist()


def removed(process: Processor | Sequence[Processor], ids: Sequence[int]) -> list[int]:
    return sorted(set(range(VOCAB)) - set(left(process, ids)))


@pytest.mark.parametrize(
    ("size", "ids", "forbidden"),
    [
        (2, [1, 2, 1], [2]),
        (2, [1, 2, 1, 3, 1], [2, 3]),
        (2, [1, 1], [1]),
        (2, [1], []),
        (2, [], []),
        (3, [1, 2, 3, 1, 2], [3]),
        (3, [1, 2, 3, 2], []),
        (3, [1, 1, 1], [1]),
        (3, [5, 2], []),
        (1, [4, 4, 6], [4, 6]),
        (1, [], []),
        (9, [1, 2, 3], []),
    ],
)
def test_no_ngram_comes_twice(size: int, ids: list[int], forbidden: list[int]) -> None:
    assert removed(no_repeat_ngram(size), ids) == forbidden
    assert removed(no_repeat_ngram(size), tuple(ids)) == forbidden


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_ngrams_that_are_forbidden_are_those_an_enumeration_finds(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(50):
        ids = rng.integers(0, 3, rng.integers(0, 30)).tolist()
        seen = {tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)}
        expected = [token for token in range(VOCAB) if tuple([*ids, token][-size:]) in seen and len(ids) >= size - 1]
        assert removed(no_repeat_ngram(size), ids) == expected


def test_no_ngram_of_the_source_comes_again() -> None:
    process = no_repeat_ngram(2, source=[1, 2, 3])
    assert removed(process, [7, 1]) == [2]
    assert removed(process, [1, 7, 2]) == [3]
    assert removed(process, [3]) == []
    assert removed(no_repeat_ngram(3, source=[1, 2, 3]), [1]) == []


def test_bad_words_lose_their_last_token_where_the_others_stand() -> None:
    process = bad_words([[4], [1, 2], [3, 1, 5]])
    assert removed(process, [0]) == [4]
    assert removed(process, [1]) == [2, 4]
    assert removed(process, [3, 1]) == [2, 4, 5]
    assert removed(process, []) == [4]


def test_suppressing_ends_with_a_length_or_happens_at_one() -> None:
    assert [removed(suppress_until(3, [1, 2]), [0] * count) for count in (2, 3)] == [[1, 2], []]
    assert [removed(suppress_at(3, [1, 2]), [0] * count) for count in (2, 3, 4)] == [[], [1, 2], []]


def test_forcing_leaves_what_is_forced_equally_likely() -> None:
    process = force_at(2, [5, 6])
    logits = process([0, 0], np.arange(VOCAB).astype(np.float32))
    assert logits.tolist() == [-math.inf] * 5 + [0, 0, -math.inf]
    assert left(process, [0]) == list(range(VOCAB))


def test_ids_beyond_the_logits_are_skipped() -> None:
    assert removed(suppress_until(9, [1, 800]), []) == [1]
    assert removed(bad_words([[800], [0, 900]]), [0]) == []


def made(span: Span | None = None, **options: Any) -> list[Processor]:
    span = span or Span(3, 9, [1, 2, 3])
    return constraints(GenerationConfig(**{"eos_token_id": (7,), **options}), span, VOCAB)


def test_nothing_is_made_of_settings_that_are_off() -> None:
    assert made() == []
    assert made(eos_token_id=(), min_new_tokens=3) == []
    assert made(bad_words_ids=[[7]]) == []  # the end can be no bad word
    assert made(min_length=3) == []


def test_the_end_waits_for_new_tokens() -> None:
    process = made(min_new_tokens=2, min_length=9)
    assert [removed(process, [0] * count) for count in (3, 4, 5)] == [[7], [7], []]
    assert made(min_new_tokens=2)[0]([0] * 4, np.zeros(VOCAB, np.float32))[7] == -math.inf


def test_a_length_that_counts_the_prompt() -> None:
    assert [removed(made(min_length=5), [0] * count) for count in (3, 4, 5)] == [[7], [7], []]


def test_the_first_token_is_forced_only_after_a_prompt_of_one() -> None:
    assert left(made(Span(1, 9), forced_bos_token_id=4), [0]) == [4]
    assert left(made(forced_bos_token_id=4), [0, 0, 0]) == list(range(VOCAB))


def test_the_end_is_forced_at_full_length() -> None:
    process = made(forced_eos_token_id=7)
    assert [len(left(process, [0] * count)) for count in (7, 8)] == [VOCAB, 1]


def test_what_may_not_begin_waits_for_a_forced_token() -> None:
    assert [removed(made(begin_suppress_tokens=[2]), [0] * count) for count in (3, 4)] == [[2], []]
    after = made(Span(1, 9), begin_suppress_tokens=[2], forced_bos_token_id=4)
    assert left(after, [0]) == [4]
    assert removed(after, [0, 4]) == [2]


def test_a_forced_token_overrules_what_stands_before_it_and_not_what_comes_after() -> None:
    assert left(made(forced_eos_token_id=7, no_repeat_ngram_size=1, min_new_tokens=6), [0, 7] * 4) == [7]
    assert left(made(forced_eos_token_id=7, suppress_tokens=[7]), [0] * 8) == []


@pytest.mark.parametrize("options", [{"forced_bos_token_id": 8}, {"forced_eos_token_id": (1, 8)}])
def test_a_forced_id_must_be_one_of_the_vocabulary(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InvalidOption, match=rf"option {name} is 8, outside 0\.\.7, the model's vocabulary"):
        made(**options)


def test_something_must_be_left() -> None:
    logits = np.array([-np.inf, 1], np.float32)
    assert something_left([], logits) is logits
    with pytest.raises(GenerationError, match=r"after 2 tokens the settings forbid every token"):
        something_left([1, 2], np.full(3, -np.inf, np.float32))
