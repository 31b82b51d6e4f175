"""The loop on token ids: prefill, decode step, decode step ... for any mixture of searches. Logits go to them, tokens come back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from edgelm.protocols import Logits, Rows

# Tokens that a search may choose next, at most so many; none is no guess.
Draft: TypeAlias = Callable[[int], Sequence[int]]

# Most tokens of a draft: their logits lie in memory together, and few machines gain by more.
MAX_DRAFT = 64


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


AnySearch = TypeVar("AnySearch", bound=Search)


@dataclass
class _Active(Generic[AnySearch]):
    """A search under way: its first row in the batch, what it chose last, and who guesses what it will choose."""

    search: AnySearch
    first: int
    choice: Choice
    draft: Draft | None


class Batch(Generic[AnySearch]):
    """Searches under way on the rows of one decoder, of any kinds and at any place in their texts."""

    def __init__(self, decoder: Rows) -> None:
        self._decoder = decoder
        self._active: list[_Active[AnySearch]] = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._active)

    def begin(self, search: AnySearch, row: int, logits: Logits, draft: Draft | None = None) -> None:
        """A search goes on from a row that was fed its prompt, with the logits [vocab_size] after that; others may, too.

        What `draft` guesses for it is verified in one call, whenever it is alone in one row: the fused attention takes several
        tokens after a past for one row only. The search sees the same logits in the same order as without.
        """
        self._active.append(_Active(search, row, search.accept(logits[None]), draft))

    def step(self) -> Iterator[AnySearch]:
        """One decode step of all, each search given back once it has chosen; rows that nobody goes on with are gone then.

        A search whose draft comes true chooses several times.
        """
        choices = [(one.first, one.choice) for one in self._active]
        self._decoder.reorder([first + parent for first, choice in choices for parent in choice.parents])
        draft = self._drafted()
        return self._verify(self._active[0], draft) if draft else self._step(choices)

    def _drafted(self) -> Sequence[int]:
        """What the only search in the only row may choose next, as far as that row can go back."""
        alone = len(self._active) == 1 and len(self._active[0].choice.tokens) == 1
        draft = self._active[0].draft if alone else None
        return () if draft is None else draft(self._decoder.undoable(MAX_DRAFT))

    def _verify(self, one: _Active[AnySearch], draft: Sequence[int]) -> Iterator[AnySearch]:
        """A search chooses for as long as the draft comes true, and once more; the row forgets the rest of it."""
        one.first, before = 0, len(self._decoder.ids[0])
        fed = [*one.choice.tokens, *draft]
        logits, accepted = self._decoder.verify(fed), 0
        while accepted < len(fed) and list(one.choice.tokens) == [fed[accepted]]:
            one.choice = one.search.accept(logits[accepted : accepted + 1])
            accepted += 1
            yield one.search
        self._decoder.truncate(0, before + accepted)

    def _step(self, choices: Sequence[tuple[int, Choice]]) -> Iterator[AnySearch]:
        logits = self._decoder.step([token for _, choice in choices for token in choice.tokens])
        log_probabilities, end = self._decoder.log_probabilities, 0
        for one in self._active:
            one.first, end = end, end + len(one.choice.tokens)
            told = None if log_probabilities is None else log_probabilities[one.first : end]
            one.choice = one.search.accept(logits[one.first : end], told)
            yield one.search

    def leave(self, gone: Collection[AnySearch] = ()) -> list[tuple[AnySearch, int]]:
        """Ends what is over, and what is `gone` whether it is over or not; gives each with its first row, there until `step`."""
        left: list[tuple[AnySearch, int]] = []
        for position in reversed(range(len(self._active))):
            one = self._active[position]
            if one.choice.tokens and one.search not in gone:
                continue
            left.append((one.search, one.first))
            self._active[position] = self._active[-1]  # so that only the last one's rows move
            self._active.pop()
        return left


def run(
    decoder: Rows, prompts: Sequence[Sequence[int]], searches: Sequence[Sequence[AnySearch]]
) -> Iterator[AnySearch]:
    """Runs `searches[i]` from prompt i until all are over; a prompt is fed once, however many searches begin there.

    Yields a search each time it has chosen. One that is over leaves the batch, and the last one takes its rows.
    """
    batch: Batch[AnySearch] = Batch(decoder)
    for row, logits in decoder.start(prompts):
        for search in searches[row]:
            batch.begin(search, row, logits)
            yield search
    batch.leave()
    while batch:
        yield from batch.step()
        batch.leave()
