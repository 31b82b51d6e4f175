"""Logits to labels and rankings, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgelm.labels import Label, Ranked, label_scores, ranking, scores, sigmoid, softmax
from edgelm.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, EncoderFacts

LOGITS = np.array([0.0, math.log(3), math.log(4)], np.float32)


def facts(problem_type: str, *labels: str) -> EncoderFacts:
    return EncoderFacts(4, 0, False, labels=labels or ("a", "b", "c"), problem_type=problem_type)


def test_a_single_label_is_a_softmax_best_first() -> None:
    found = label_scores(LOGITS, facts(SINGLE_LABEL))
    assert [label.label for label in found] == ["c", "b", "a"]
    assert [label.score for label in found] == pytest.approx([4 / 8, 3 / 8, 1 / 8])


def test_labels_that_may_all_hold_are_sigmoids() -> None:
    assert [label.score for label in label_scores(LOGITS, facts(MULTI_LABEL))] == pytest.approx([4 / 5, 3 / 4, 1 / 2])


def test_a_regression_is_its_logit() -> None:
    assert label_scores(np.array([-2.5], np.float32), facts(REGRESSION, "stars")) == [Label("stars", -2.5)]


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    assert [label.label for label in label_scores(np.zeros(3, np.float32), facts(SINGLE_LABEL))] == ["a", "b", "c"]


def test_no_logit_overflows() -> None:
    far = np.array([1e4, -1e4, 0], np.float32)
    assert sigmoid(far).tolist() == [1, 0, 0.5]
    assert softmax(far).tolist() == [1, 0, 0]
    assert scores(far, REGRESSION).tolist() == [1e4, -1e4, 0]


def test_a_ranking_is_best_first_and_keeps_the_order_of_equals() -> None:
    logits = [np.array([value], np.float32) for value in (0, 2, -1, 2)]
    found = ranking(logits, ["w", "x", "y", "z"], MULTI_LABEL)
    assert [(one.index, one.document) for one in found] == [(1, "x"), (3, "z"), (0, "w"), (2, "y")]
    assert [one.score for one in found] == pytest.approx([1 / (1 + math.exp(-v)) for v in (2, 2, 0, -1)])
    assert ranking(logits[:1], ["w"], REGRESSION) == [Ranked(0, 0.0, "w")]
    assert ranking([], [], MULTI_LABEL) == []
