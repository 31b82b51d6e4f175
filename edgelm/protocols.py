"""What the loop needs of a decoder, and what a scheduler needs besides; decode.py and growing.py do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


class Rows(Protocol):
    """What a search needs of a decoder, which is the one of decode.py or anything that does the same."""

    ids: list[list[int]]
    """What every row has been fed."""

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

    def undoable(self, most: int) -> int:
        """How many tokens the only row could be fed after its next one and forget again; `most` at most."""
        ...

    def verify(self, ids: Sequence[int]) -> Logits:
        """Feeds the only row several tokens in one call; gives the logits [tokens, vocab_size], valid until the next call."""
        ...

    def truncate(self, row: int, length: int) -> None:
        """Forgets what a row was fed beyond `length` tokens.

        Raises:
            GenerationError: a window has dropped what it would need again (see `undoable` and `holds`).
        """
        ...

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from where row parents[i] is; there may be fewer rows than before, or more."""
        ...


class DecoderRows(Rows, Protocol):
    """What is needed of a decoder besides a search: rows that are fed, cut, copied, and handed from one decoder to another."""

    @property
    def batch(self) -> int:
        """Sequences still in the batch."""
        ...

    def prefill(self, row: int, ids: Sequence[int]) -> Logits:
        """Feeds a row's prompt (or more of it) and returns the logits [vocab_size] after its last token."""
        ...

    def prefill_chunks(self, row: int, ids: Sequence[int]) -> Iterator[Logits | None]:
        """The same, at most a chunk of tokens from one item to the next; only the last item is logits."""
        ...

    def all_logits(self, row: int, ids: Sequence[int], chunk: int = ...) -> Iterator[Logits]:
        """Feeds a row and yields the logits of every position, [tokens, vocab_size] a chunk."""
        ...

    def allow(self, limit: int) -> None:
        """Rows may take so many positions from now on."""
        ...

    def holds(self, row: int, length: int, total: int) -> bool:
        """Whether a row could go back to `length` tokens and on to `total` without being fed any of them again."""
        ...

    def copy(self, row: int, length: int) -> Self:
        """A decoder of one row that goes on from the first `length` tokens of this one, which `holds` them."""
        ...

    def detach(self, row: int) -> Self:
        """A decoder of one row for a row that leaves: this very decoder if it has room for no other, else a copy."""
        ...

    def append(self, other: Self) -> int:
        """Adds the only row of another decoder on the same program, which is not used any more; returns its number here."""
        ...

    def held(self, row: int) -> Sequence[Any]:
        """Views [heads, positions, head_dim] of what the cache holds of a row."""
        ...

    def hold(self, ids: Sequence[int]) -> Sequence[Any]:
        """Makes the only row one that was fed `ids`; what the cache holds of them is to be written into these arrays."""
        ...
