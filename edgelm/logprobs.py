"""Log probabilities of tokens: those of the model itself, before any processor, filter or temperature, natural logarithms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgelm.logits import Logits, highest, log_sum_exp


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its log probability, and the likeliest tokens at its place with theirs, best first.

    The first token of a prompt has none, for nothing comes before it.
    """

    token_id: int
    logprob: float | None
    top: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])


def token_logprob(logits: Logits, token: int, count: int) -> TokenLogprob:
    """A token's place in the model's distribution: logits [vocab_size], and how many of the likeliest are to be told."""
    total = log_sum_exp(logits)
    found = highest(logits, count) if count else np.empty(0, np.intp)
    best = found[np.lexsort((found, -logits[found]))][:count]
    return TokenLogprob(token, float(logits[token]) - total, [(int(one), float(logits[one]) - total) for one in best])


def token_logprobs(ids: Sequence[int], logits: Iterable[Logits], count: int) -> list[TokenLogprob]:
    """The same for every id of a sequence, from the logits [some, vocab_size] of its positions, in order."""
    rows = (row for chunk in logits for row in chunk)
    told = [token_logprob(row, token, count) for token, row in zip(ids[1:], rows, strict=False)]
    return [TokenLogprob(ids[0], None), *told]


def log_probabilities(tokens: Sequence[int], logits: Iterable[Logits]) -> Iterator[NDArray[np.float64]]:
    """Those of tokens, from the logits [some, vocab_size] they are drawn from, in order; as many a time as there are logits."""
    begin = 0
    for chunk in logits:
        part = list(tokens[begin : begin + len(chunk)])
        begin += len(chunk)
        rows = chunk[: len(part)].astype(np.float64)
        rows -= rows.max(-1, keepdims=True)
        yield rows[np.arange(len(part)), part] - np.log(np.exp(rows).sum(-1))
