"""Logits of a classifier in, labels with scores or a ranking out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import tasks
from edgelm.tasks import EncoderFacts


@dataclass(frozen=True)
class Label:
    """A label and how sure the model is of it; of a regression, the value itself."""

    label: str
    score: float


@dataclass(frozen=True)
class Ranked:
    """A document, its place in the list that was given, and how well it answers the query."""

    index: int
    score: float
    document: str


def label_scores(logits: NDArray[np.float32], facts: EncoderFacts) -> list[Label]:
    """Every label of one text, best first: logits [labels] as the problem type reads them."""
    values = scores(logits, facts.problem_type)
    order: list[int] = np.argsort(-values, kind="stable").tolist()
    return [Label(facts.labels[i], float(values[i])) for i in order]


def ranking(logits: Sequence[NDArray[np.float32]], documents: Sequence[str], problem_type: str) -> list[Ranked]:
    """Documents with the scores of their logits [1], best first; of equals the first given comes first."""
    values = [float(scores(row, problem_type)[0]) for row in logits]
    ranked = [Ranked(i, score, document) for i, (score, document) in enumerate(zip(values, documents, strict=True))]
    return sorted(ranked, key=lambda one: -one.score)


def scores(logits: NDArray[np.float32], problem_type: str) -> NDArray[np.float64]:
    """Softmax, sigmoid, or nothing, over the last axis."""
    if problem_type == tasks.REGRESSION:
        return logits.astype(np.float64)
    return sigmoid(logits) if problem_type == tasks.MULTI_LABEL else softmax(logits)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """exp(x) / sum(exp(x)) over the last axis."""
    exact = logits.astype(np.float64)
    grown = np.exp(exact - exact.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow at either end."""
    exact = logits.astype(np.float64)
    half = np.exp(-np.abs(exact))
    return np.where(exact >= 0, 1, half) / (1 + half)
