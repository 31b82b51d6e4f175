"""The loop on token ids: prefill, decode step, decode step ... for any mixture of searches. Logits go to them, tokens come back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """What a search goes on with: its new row i continues its row parents[i] and is fed tokens[i]. No rows: it is over."""

    parents: Sequence[int] = ()
    tokens: Sequence[int] = ()


class Search(Protocol):
    """Looks for one continuation of a prompt, or for several side by side, each in a row of the batch."""

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        """Chooses by the logits [its rows, vocab_size] after its last tokens, at first those after the prompt in one row.

        Their log probabilities are there where the decoder tells them, and are the search's to overwrite.
        """
        ...


class Rows(Protocol):
    """What a search needs of a decoder, which is the one of decode.py or anything that does the same."""

    @property
    def vocab_size(self) -> int:
        """How many logits a token has."""
        ...

    @property
    def limit(self) -> int:
        """Most positions a row may take."""
        ...

    def start(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Logits]]:
        """Feeds every row its prompt; gives (row, logits [vocab_size] after its last token) as they are done."""
        ...

    def step(self, ids: Sequence[int]) -> Logits:
        """Feeds one token a row; gives the logits [rows, vocab_size], valid until the next step."""
        ...

    @property
    def log_probabilities(self) -> Logits | None:
        """Those of the logits that `step` gave last, if the program computes them, which it does faster than anything here."""
        ...

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from where row parents[i] is; there may be fewer rows than before, or more."""
        ...


AnySearch = TypeVar("AnySearch", bound=Search)


@dataclass
class _Active(Generic[AnySearch]):
    """A search under way: its first row in the batch, and what it chose last."""

    search: AnySearch
    first: int
    choice: Choice


def run(
    decoder: Rows, prompts: Sequence[Sequence[int]], searches: Sequence[Sequence[AnySearch]]
) -> Iterator[AnySearch]:
    """Runs `searches[i]` from prompt i until all are over; a prompt is fed once, however many searches begin there.

    Yields a search each time it has chosen. One that is over leaves the batch, and the last one takes its rows.
    """
    active: list[_Active[AnySearch]] = []
    for row, logits in decoder.start(prompts):
        for search in searches[row]:
            active.append(_Active(search, row, search.accept(logits[None])))
            yield search
    while True:
        for position in reversed(range(len(active))):
            if not active[position].choice.tokens:
                active[position] = active[-1]
                active.pop()
        if not active:
            return
        decoder.reorder([one.first + parent for one in active for parent in one.choice.parents])
        logits = decoder.step([token for one in active for token in one.choice.tokens])
        log_probabilities, end = decoder.log_probabilities, 0
        for one in active:
            one.first, end = end, end + len(one.choice.tokens)
            told = None if log_probabilities is None else log_probabilities[one.first : end]
            one.choice = one.search.accept(logits[one.first : end], told)
            yield one.search
