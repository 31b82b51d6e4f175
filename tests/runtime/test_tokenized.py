"""Cuts and windows over a tokenized text, against those of the tokenizers library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from edgelm.tokenized import NONE, Tokenized, span_of_words, truncated, windows
from edgelm.tokenizer import Text
from tests.runtime.encoders import tokenizer_json

BACKEND = Backend.from_str(tokenizer_json())
SPECIAL = 2, 3  # of one text and of two


def words(n: int) -> str:
    return " ".join(("anna", "lives", "in", "berlin", "and", "works", "at", "the", "river")[i % 9] for i in range(n))


def tokenized(text: Text) -> Tokenized:
    return Tokenized.of(text if isinstance(text, str) else text[1], BACKEND.encode(*_pair(text)))


def cut_by_library(text: Text, limit: int, **options: Any) -> Encoding:
    backend = Backend.from_str(BACKEND.to_str())
    backend.enable_truncation(limit, **options)
    return backend.encode(*_pair(text))


def _pair(text: Text) -> tuple[str, str | None]:
    return (text, None) if isinstance(text, str) else text


@given(first=st.integers(0, 30), limit=st.integers(SPECIAL[0], 24), left=st.booleans())
def test_a_text_is_cut_as_the_library_cuts_it(first: int, limit: int, left: bool) -> None:
    tokens = tokenized(words(first))
    expected = cut_by_library(words(first), limit, direction="left" if left else "right")
    _equal(tokens.take(truncated(tokens.parts, limit, left=left)), expected)


@given(first=st.integers(0, 30), second=st.integers(0, 30), limit=st.integers(SPECIAL[1] + 1, 40), left=st.booleans())
def test_the_longer_text_of_a_pair_is_cut_as_the_library_cuts_it(
    first: int, second: int, limit: int, left: bool
) -> None:
    pair = words(first), words(second)
    tokens = tokenized(pair)
    expected = cut_by_library(pair, limit, direction="left" if left else "right")
    _equal(tokens.take(truncated(tokens.parts, limit, left=left)), expected)


@given(first=st.integers(0, 5), second=st.integers(0, 60), limit=st.integers(13, 30), stride=st.integers(0, 4))
def test_windows_over_the_second_text_are_those_of_the_library(
    first: int, second: int, limit: int, stride: int
) -> None:
    pair = words(first), words(second)
    tokens = tokenized(pair)
    expected = cut_by_library(pair, limit, strategy="only_second", stride=stride)
    found = [tokens.take(chosen) for chosen in windows(tokens.parts, 1, limit, stride)]
    assert len(found) == 1 + len(expected.overflowing)
    for one, other in zip(found, [expected, *expected.overflowing], strict=True):
        _equal(one, other)


def test_a_window_that_holds_all_is_the_only_one() -> None:
    tokens = tokenized(("anna", "lives in berlin"))
    assert [chosen.tolist() for chosen in windows(tokens.parts, 1, 7, 100)] == [list(range(7))]


@pytest.mark.parametrize("second", [16, 17, 18, 19, 20, 21])
def test_the_last_window_ends_with_the_text(second: int) -> None:
    parts = np.array([NONE, 0, NONE, *[1] * second, NONE])
    found = windows(parts, 1, 12, 3)
    assert found[-1][-2] == 2 + second
    covered = sorted({int(i) for chosen in found for i in chosen})
    assert covered == list(range(4 + second))
    assert all(len(chosen) <= 12 for chosen in found)


def test_nothing_is_left_of_a_text_when_special_tokens_fill_the_limit() -> None:
    tokens = tokenized("anna lives in berlin")
    assert tokens.take(truncated(tokens.parts, 2)).ids.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1, 1, "Wolfgang"),
        (2, 2, "Wolfgang"),
        (2, 3, "Wolfgang works"),
        (3, 5, "works at Microsoft"),
        (6, 6, "Microsoft"),
    ],
)
def test_spans_are_widened_to_whole_words(first: int, last: int, expected: str) -> None:
    tokens = tokenized("Wolfgang works at Microsoft.")
    start, end = span_of_words(tokens, first, last)
    assert tokens.text[start:end] == expected


def test_spans_without_words_stay_as_they_are() -> None:
    tokens = tokenized("Wolfgang works")
    without = Tokenized(**{**vars(tokens), "words": np.full_like(tokens.words, NONE)})
    assert span_of_words(without, 2, 2) == (4, 8)


def test_words_of_the_question_are_not_those_of_the_context() -> None:
    tokens = tokenized(("Wolfgang works", "Microsoft works"))
    first = tokens.parts.tolist().index(1)
    assert span_of_words(tokens, first, first) == (0, 9)


def _equal(found: Tokenized, expected: Encoding) -> None:
    assert found.ids.tolist() == expected.ids
    assert found.type_ids.tolist() == expected.type_ids
    assert found.offsets.tolist() == [list(span) for span in expected.offsets]
    assert _without_none(found.words) == list(expected.word_ids)
    assert _without_none(found.parts) == list(expected.sequence_ids)


def _without_none(values: Any) -> Sequence[int | None]:
    return [None if value == NONE else value for value in values.tolist()]
