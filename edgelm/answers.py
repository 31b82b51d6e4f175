"""Logits of starts and ends in, spans of a context out: what transformers' question answering pipeline does, on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgelm.labels import softmax
from edgelm.tokenized import Tokenized, span_of_words

Array = NDArray[np.float32]
CONTEXT = 1  # the question is part 0


@dataclass(frozen=True)
class Answer:
    """A span of the context that answers the question; without text, start and end 0, that none does.

    Attributes:
        text: what stands there, without spaces around it.
        score: probability of the start times that of the end, each among the tokens of its window. Of an answer that is
            found more than once, in overlapping windows or in other places, the sum.
        start: of the span in the context, in characters, as the tokenizer counts.
        end: where it ends, exclusive.
    """

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class AnswerOptions:
    """How answers are chosen.

    Attributes:
        top_k: most answers.
        max_answer_length: most tokens of an answer.
        no_answer: that there is none competes with them.
    """

    top_k: int
    max_answer_length: int
    no_answer: bool


@dataclass(frozen=True)
class Span:
    """First and last token of an answer."""

    first: int
    last: int
    score: float


def find_answers(
    windows: Sequence[tuple[Tokenized, Array]], options: AnswerOptions, cls_token_id: int | None
) -> list[Answer]:
    """The best answers, best first.

    Args:
        windows: pieces of one context behind the question, with the logits [tokens, 2] of starts and ends.
        options: how they are chosen. "None" has the least probability that a window gives to its first token.
        cls_token_id: of the token that stands for "none"; None where the model has no such token.
    """
    found: dict[str, Answer] = {}
    none = np.inf
    for tokens, logits in windows:
        allowed = (tokens.parts == CONTEXT) | (tokens.ids == (-1 if cls_token_id is None else cls_token_id))
        # Words widen to the same answer more often than not, so more are looked at than are asked for.
        spans, first = best_spans(logits, allowed, options.max_answer_length, 2 * options.top_k + 10)
        none = min(none, first)
        for span in spans:
            start, end = span_of_words(tokens, span.first, span.last)
            text = tokens.text[start:end]
            known = found.get(text.lower())
            if known is not None:
                found[text.lower()] = replace(known, score=known.score + span.score)
            elif not text.isspace():
                found[text.lower()] = Answer(text.strip(), span.score, start, end)
    answers = [*found.values(), *([Answer("", float(none), 0, 0)] if options.no_answer else [])]
    return sorted(answers, key=lambda answer: -answer.score)[: options.top_k]


def best_spans(logits: Array, allowed: NDArray[np.bool_], longest: int, count: int) -> tuple[list[Span], float]:
    """The `count` likeliest spans, best first, and the probability that the first token is start and end.

    Args:
        logits: [tokens, 2], of starts and ends.
        allowed: tokens that may start or end an answer; the first one only stands for "none".
        longest: most tokens of a span.
    """
    if not allowed.any():
        return [], 0.0
    starts, ends = softmax(np.where(allowed[:, None], logits, -np.inf).T)
    none = float(starts[0] * ends[0])
    starts[0] = ends[0] = 0
    length = min(longest, len(starts))
    # Row i holds the spans that start at i, one token long, two tokens long ...
    reach = np.lib.stride_tricks.sliding_window_view(np.append(ends, np.zeros(length - 1)), length)
    scores = (starts[:, None] * reach).ravel()
    spans = [
        Span(i // length, i // length + i % length, float(scores[i]))
        for i in _largest(scores, count).tolist()
        if scores[i] > 0
    ]
    return spans, none


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the largest values, largest first; of equals the first ones."""
    count = min(count, len(values))
    kept = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return kept[np.argsort(-values[kept], kind="stable")][:count]
