"""Speculative decoding: cheap guesses at the next tokens, which one call of the program verifies together (search.Batch).

What is chosen is what would be chosen without: a guess only says which logits are worth computing at once. How many tokens are
guessed follows from what guesses cost and how many come true, and it is none where they cost more than they bring.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edgelm.repetitions import Repeats

# Matches of so many tokens and of more are trusted alike.
_LONGEST_GRADE = 4

# Timings that a median is taken of.
_TIMINGS = 9

# Guesses that an estimate remembers: fewer follow a text that changes sooner, more are steadier.
_MEMORY = 24.0

# What a guess is taken to cost, as a share of a plain step, until it was measured (int4 and int8 of a small model, two cores).
_ASSUMED_SHARE = 1 / 6

# Steps without a guess before the first one that tries again, and the most there may be when trying fails again and again.
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 256


class Drafter(Protocol):
    """Guesses how a sequence goes on."""

    def grade(self, ids: Sequence[int]) -> int:
        """How much it trusts what it would guess after these ids: 0 is no guess; guesses of one grade are judged together."""
        ...

    def propose(self, count: int) -> list[int]:
        """Up to so many tokens after the ids of the last call of `grade`."""
        ...


class PromptLookup:
    """Guesses that a text goes on as it did after the longest earlier place that reads like its end, the latest of such places.

    The prompt counts as text, so what copies from it is guessed well (prompt lookup decoding, Saxena 2023).
    """

    def __init__(self) -> None:
        self._repeats = Repeats()
        self._ids: Sequence[int] = ()
        self._next = 0

    def grade(self, ids: Sequence[int]) -> int:
        """How many of the last ids stand at that place, as far as it matters."""
        _, lengths = self._repeats.of(ids)
        if not lengths.size:
            return 0
        self._ids = ids
        self._next = lengths.size - int(lengths[::-1].argmax())
        return min(int(lengths[self._next - 1]), _LONGEST_GRADE)

    def propose(self, count: int) -> list[int]:
        """What followed there; where that runs into the end, the guess goes on by itself, as in a loop."""
        found = list(self._ids[self._next : self._next + count])
        period = len(found)
        return [found[i % period] for i in range(count)]


@dataclass
class _Record:
    """What became of the guesses of one grade; at first as if one of two had come true."""

    came_true: float = 1.0
    guessed: float = 2.0
    pause: int = _FIRST_PAUSE
    idle: int = 0

    def add(self, accepted: int, drafted: int) -> None:
        """A draft came true for so many tokens; after the first wrong one nothing is known of the rest."""
        self.came_true += accepted
        self.guessed += accepted + (accepted < drafted)
        if self.guessed > _MEMORY:
            self.came_true, self.guessed = self.came_true * _MEMORY / self.guessed, _MEMORY

    def tries(self) -> bool:
        """Counts a step for which no guess is worth it, and tells whether to try one after all.

        Two in a row: the first makes a draft model read what was chosen meanwhile, the second tells what a guess costs.
        """
        self.idle += 1
        if self.idle > self.pause + 1:
            self.idle, self.pause = 0, min(2 * self.pause, _LONGEST_PAUSE)
        return not 0 < self.idle <= self.pause


class Pace:
    """How many tokens to guess: as many as bring the most tokens a second, by what steps took and what came true so far.

    Where a guess comes true with probability a, a step with n of them brings (1 - a^(n+1)) / (1 - a) tokens on average
    (Leviathan et al. 2023, arXiv 2211.17192, equation 1). It takes as long as a plain step and a part more for each guess.
    """

    def __init__(self) -> None:
        # Seconds of a plain step, and those that each guess adds, the last times.
        self._plain: deque[float] = deque(maxlen=_TIMINGS)
        self._guess: deque[float] = deque(maxlen=_TIMINGS)
        self._records: defaultdict[int, _Record] = defaultdict(_Record)
        self._before: Literal["plain", "guess"] | None = None

    def count(self, grade: int, most: int) -> int:
        """How many tokens of a grade to guess, `most` at most."""
        if not self._plain or most < 1:
            return 0
        record, share = self._records[grade], self._share()
        rate = record.came_true / record.guessed
        count = max(range(most + 1), key=lambda n: (1 - rate ** (n + 1)) / (1 + n * share))
        if not count:
            return int(record.tries())
        record.idle, record.pause = 0, _FIRST_PAUSE
        return count

    def plain(self, seconds: float) -> None:
        """A step without a guess took so long. The very first is not counted, for it binds buffers."""
        if self._before is not None:
            self._plain.append(seconds)
        self._before = "plain"

    def verified(self, grade: int, drafted: int, accepted: int, seconds: float) -> None:
        """So many tokens of a grade were guessed, so many of them came true, and it took so long in all.

        The time is not counted after a step without a guess, for a draft model has to catch up then.
        """
        self._records[grade].add(accepted, drafted)
        if self._before == "guess":
            self._guess.append((seconds - statistics.median(self._plain)) / drafted)
        self._before = "guess"

    def _share(self) -> float:
        """What a guess costs, as a share of a plain step."""
        plain = statistics.median(self._plain)
        if not self._guess or not plain:
            return _ASSUMED_SHARE
        return max(0.0, statistics.median(self._guess)) / plain


class Speculation:
    """The guesses for one sequence: made before a step, compared with what is chosen, and given up where they lose time."""

    def __init__(self, drafter: Drafter, most: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """`most` tokens are guessed at a time, at most."""
        self._drafter, self._most, self._clock = drafter, most, clock
        self._pace = Pace()
        self._begun: float | None = None
        self._grade = self._accepted = 0
        self._draft: list[int] = []

    def draft(self, ids: Sequence[int], most: int) -> Sequence[int]:
        """Called before a step of this sequence alone: what may be chosen after `ids`, `most` tokens at most."""
        self._begun, self._accepted = self._clock(), 0
        self._grade = self._drafter.grade(ids)
        count = self._pace.count(self._grade, min(most, self._most)) if self._grade else 0
        self._draft = self._drafter.propose(count) if count else []
        return self._draft

    def chosen(self, token: int) -> bool:
        """Called for each token that is chosen; true if it was guessed, so that no step was taken for the next one."""
        if self._draft[self._accepted : self._accepted + 1] == [token]:
            self._accepted += 1
            return True
        if self._begun is not None:
            seconds = self._clock() - self._begun
            if self._draft:
                self._pace.verified(self._grade, len(self._draft), self._accepted, seconds)
            else:
                self._pace.plain(seconds)
        self._begun, self._draft, self._accepted = None, [], 0
        return False
