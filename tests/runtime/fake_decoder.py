"""A decoder without a program: what comes next is a function of the row's ids. It checks what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.logits import log_softmax

Logits = NDArray[np.float32]
NextLogits = Callable[[Sequence[int]], Logits]


class FakeDecoder:
    """Does what search.py needs of a decoder, and keeps the ids of every row."""

    def __init__(self, following: NextLogits, vocab_size: int, limit: int = 64, *, tells: bool = False) -> None:
        self.following = following
        self.vocab_size = vocab_size
        self.limit = limit
        self.ids: list[list[int]] = []
        self.fed = 0
        self.widths: list[int] = []
        self.log_probabilities: Logits | None = None
        self._tells = tells

    def start(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Logits]]:
        self.ids = [list(ids) for ids in prompts]
        self.fed += sum(map(len, prompts))
        yield from ((row, self.following(ids)) for row, ids in enumerate(self.ids))

    def step(self, ids: Sequence[int]) -> Logits:
        assert len(ids) == len(self.ids)
        for row, token in zip(self.ids, ids, strict=True):
            row.append(token)
        self.widths.append(len(ids))
        logits = np.stack([self.following(row) for row in self.ids])
        if self._tells:
            self.log_probabilities = np.stack([log_softmax(row) for row in logits])
        return logits

    def undoable(self, most: int) -> int:
        return most

    def verify(self, ids: Sequence[int]) -> Logits:
        (row,) = self.ids
        self.widths.append(len(ids))
        logits: list[Logits] = []
        for token in ids:
            row.append(token)
            logits.append(self.following(row))
        return np.stack(logits)

    def truncate(self, row: int, length: int) -> None:
        assert 0 < length <= len(self.ids[row])
        del self.ids[row][length:]

    def reorder(self, parents: Sequence[int]) -> None:
        self.ids = [list(self.ids[parent]) for parent in parents]


def random_logits(vocab_size: int, seed: int = 0, spread: float = 2.0) -> NextLogits:
    """Random logits that depend on all ids so far, and on nothing else."""

    def following(ids: Sequence[int]) -> Logits:
        return np.random.default_rng([seed, *ids]).normal(0, spread, vocab_size).astype(np.float32)

    return following
