"""Logits of starts and ends to answers, by hand."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest

from edgelm.answers import Answer, AnswerOptions, best_spans, find_answers
from edgelm.tokenized import NONE, Tokenized

CONTEXT = "In Paris or in Rome, in paris"
CLS, SEP = 2, 3
# [CLS] who [SEP] In Paris or in Rome , in paris [SEP]
OFFSETS = ((0, 0), (0, 3), (0, 0), (0, 2), (3, 8), (9, 11), (12, 14), (15, 19), (19, 20), (21, 23), (24, 29), (0, 0))
ALLOWED = np.array([True, False, False, *[True] * 8, False])


def tokens(chosen: list[int] | None = None) -> Tokenized:
    n = len(OFFSETS)
    parts = np.array([NONE, 0, NONE, *[1] * 8, NONE])
    words = np.array([NONE, 0, NONE, *range(8), NONE])
    ids = np.array([CLS, 9, SEP, *range(10, 18), SEP])
    found = Tokenized(CONTEXT, ids, np.zeros(n, np.int64), parts, np.array(OFFSETS), words)
    return found if chosen is None else found.take(np.array(chosen))


def logits(starts: dict[int, float], ends: dict[int, float], n: int = len(OFFSETS)) -> np.ndarray:
    """Probabilities of starts and ends as logits; what is left is nowhere, not even on tokens that may not be."""
    found = np.full((n, 2), -50.0, np.float32)
    for column, chances in enumerate((starts, ends)):
        for i, chance in chances.items():
            found[i, column] = math.log(chance)
    return found


def answers(found: np.ndarray, top_k: int = 1, longest: int = 15, no_answer: bool = False) -> list[Answer]:
    return find_answers([(tokens(), found)], AnswerOptions(top_k, longest, no_answer), CLS)


def about(text: str, score: float, start: int, end: int) -> Any:
    """An answer whose score need not be exact."""
    return Answer(text, cast("Any", pytest.approx(score)), start, end)


def test_the_best_span_multiplies_start_and_end() -> None:
    (found,) = answers(logits({4: 0.6, 7: 0.4}, {4: 0.3, 7: 0.7}))
    assert (found.text, found.start, found.end) == ("Paris or in Rome", 3, 19)
    assert found.score == pytest.approx(0.6 * 0.7)


def test_an_answer_is_no_longer_than_allowed() -> None:
    found = logits({4: 0.6, 7: 0.4}, {4: 0.3, 7: 0.7})
    assert answers(found, longest=4)[0].text == "Paris or in Rome"
    assert answers(found, longest=3)[0].text == "Rome"


def test_no_answer_ends_before_it_starts() -> None:
    found = answers(logits({7: 0.9, 4: 0.1}, {4: 0.9, 7: 0.1}), top_k=3)
    assert {one.text: round(one.score, 4) for one in found} == {"Rome": 0.09, "Paris": 0.09, "Paris or in Rome": 0.01}


def test_top_k_gives_the_best_first_and_never_more_than_there_are() -> None:
    found = answers(logits({4: 0.6, 7: 0.4}, {4: 0.25, 7: 0.75}), top_k=9)
    assert [one.text for one in found[:3]] == ["Paris or in Rome", "Rome", "Paris"]
    assert [one.score for one in found[:3]] == pytest.approx([0.45, 0.3, 0.15])
    assert sum(one.score for one in found) <= 1


def test_question_and_special_tokens_are_no_answers_and_take_no_probability() -> None:
    found = logits({4: 0.5}, {4: 0.5})
    found[[1, 2, 11]] = 30
    assert answers(found)[0] == about("Paris", 1, 3, 8)


def test_an_answer_in_two_places_counts_once_with_both_scores() -> None:
    found = answers(logits({4: 0.5, 10: 0.5}, {4: 0.5, 10: 0.5}), longest=1, top_k=2)
    assert found[0] == about("Paris", 0.5, 3, 8)


def test_an_answer_in_two_windows_counts_once_with_both_scores() -> None:
    left, right = [0, 1, 2, 3, 4, 5, 11], [0, 1, 2, 4, 5, 6, 7, 11]
    one = logits({4: 0.8, 3: 0.2}, {4: 1.0}, n=7)
    other = logits({3: 0.6, 6: 0.4}, {3: 0.5, 6: 0.5}, n=8)
    windows = [(tokens(left), one), (tokens(right), other)]
    found = find_answers(windows, AnswerOptions(1, 1, False), CLS)
    assert found == [about("Paris", 0.8 + 0.3, 3, 8)]


def test_that_there_is_no_answer_competes_only_when_asked() -> None:
    found = logits({0: 0.8, 4: 0.2}, {0: 0.9, 4: 0.1})
    assert answers(found) == [about("Paris", 0.02, 3, 8)]
    assert answers(found, no_answer=True) == [about("", 0.72, 0, 0)]
    assert [one.text for one in answers(found, top_k=2, no_answer=True)] == ["", "Paris"]


def test_that_there_is_no_answer_is_only_as_likely_as_in_the_least_likely_window() -> None:
    one, other = logits({0: 0.9, 4: 0.1}, {0: 0.9, 4: 0.1}), logits({0: 0.5, 4: 0.5}, {0: 0.5, 4: 0.5})
    found = find_answers([(tokens(), one), (tokens(), other)], AnswerOptions(5, 15, True), CLS)
    assert next(answer.score for answer in found if not answer.text) == pytest.approx(0.25)


def test_an_empty_context_has_no_answer() -> None:
    chosen = [0, 1, 2, 11]
    found = np.zeros((4, 2), np.float32)
    assert find_answers([(tokens(chosen), found)], AnswerOptions(3, 15, False), CLS) == []
    assert find_answers([(tokens(chosen), found)], AnswerOptions(3, 15, True), CLS) == [Answer("", 1.0, 0, 0)]
    assert find_answers([(tokens(chosen), found)], AnswerOptions(3, 15, True), None) == [Answer("", 0.0, 0, 0)]


def test_the_first_token_stands_for_nothing_but_no_answer() -> None:
    spans, none = best_spans(logits({0: 0.9, 4: 0.1}, {4: 0.9, 0: 0.1}), ALLOWED, 15, 3)
    assert (spans[0].first, spans[0].last) == (4, 4)
    assert none == pytest.approx(0.09)


def test_all_spans_are_found_that_a_full_table_holds() -> None:
    rng = np.random.default_rng(0)
    found = rng.normal(0, 2, (12, 2)).astype(np.float32)
    spans, _ = best_spans(found, ALLOWED, 4, 12)
    chances = np.exp(np.where(ALLOWED[:, None], found, -np.inf).astype(np.float64))
    chances /= chances.sum(0)
    chances[0] = 0
    table = np.tril(np.triu(np.outer(chances[:, 0], chances[:, 1])), 3)
    best = np.argsort(-table, axis=None)[:12]
    assert [(span.first, span.last) for span in spans] == [divmod(int(i), 12) for i in best]
    assert [span.score for span in spans] == pytest.approx(table.ravel()[best].tolist())
