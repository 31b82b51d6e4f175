"""Guesses: what they are, how many, and that tokens are the same as without, on a decoder and a clock of our own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgelm import search
from edgelm.search import MAX_DRAFT, Choice
from edgelm.speculation import Pace, PromptLookup, Speculation
from tests.runtime.fake_decoder import FakeDecoder, Logits, random_logits

VOCAB = 7


class Greedy:
    """Takes the best token until there are `length`."""

    def __init__(self, prompt: Sequence[int], length: int) -> None:
        self.ids = list(prompt)
        self._end = len(prompt) + length

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        assert logits.shape == (1, VOCAB)
        self.ids.append(int(logits[0].argmax()))
        return Choice((0,), self.ids[-1:]) if len(self.ids) < self._end else Choice()


def run(decoder: FakeDecoder, one: Greedy, draft: search.Draft | None) -> int:
    """Decode steps until the end."""
    batch: search.Batch[Greedy] = search.Batch(decoder)
    for row, logits in decoder.start([list(one.ids)]):
        batch.begin(one, row, logits, draft)
    batch.leave()
    while batch:
        for _ in batch.step():
            pass
        batch.leave()
    return len(decoder.widths)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_guessed_the_tokens_and_what_the_row_holds_are_those_of_plain_decoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompt, length = rng.integers(0, VOCAB, 5).tolist(), int(rng.integers(1, 40))
    plain, plain_row = Greedy(prompt, length), FakeDecoder(random_logits(VOCAB), VOCAB)
    run(plain_row, plain, None)
    guessed, row = Greedy(prompt, length), FakeDecoder(random_logits(VOCAB), VOCAB)

    def draft(most: int) -> list[int]:
        assert most == MAX_DRAFT
        right = plain.ids[len(guessed.ids) :][: int(rng.integers(0, 6))]
        return [*right, *rng.integers(0, VOCAB, rng.integers(0, 3)).tolist()]

    steps = run(row, guessed, draft)
    assert guessed.ids == plain.ids
    assert row.ids == plain_row.ids
    assert steps <= len(plain_row.widths)


def test_guesses_that_are_all_right_and_all_wrong() -> None:
    plain = Greedy([1, 2], 21)
    run(FakeDecoder(random_logits(VOCAB), VOCAB), plain, None)
    for wrong, expected in ((0, 4), (1, 20)):
        one = Greedy([1, 2], 21)

        def draft(most: int, one: Greedy = one, wrong: int = wrong) -> list[int]:
            return [(token + wrong) % VOCAB for token in plain.ids[len(one.ids) :][:4]]

        assert run(FakeDecoder(random_logits(VOCAB), VOCAB), one, draft) == expected
        assert one.ids == plain.ids


def test_nothing_is_guessed_for_searches_that_share_a_batch() -> None:
    decoder = FakeDecoder(random_logits(VOCAB), VOCAB)
    batch: search.Batch[Greedy] = search.Batch(decoder)
    short, long = Greedy([1], 3), Greedy([2], 6)
    asked: list[int] = []

    def draft(most: int) -> list[int]:
        asked.append(most)
        return []

    for (row, logits), one in zip(decoder.start([[1], [2]]), (short, long), strict=True):
        batch.begin(one, row, logits, draft)
    while batch:
        for _ in batch.step():
            pass
        batch.leave()
    assert decoder.widths == [2, 2, 1, 1, 1]
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("ids", "grade", "following"),
    [
        ([], 0, None),
        ([5], 0, None),
        ([1, 2, 3], 0, None),
        ([1, 2, 3, 1], 1, [2, 3, 1, 2]),
        ([1, 2, 7, 8, 2, 9, 1, 2], 2, [7, 8, 2, 9]),  # the longest
        ([2, 7, 8, 2, 9, 4, 2], 1, [9, 4, 2, 9]),  # the latest of equal ones
        ([1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5], 4, [6, 1, 2, 3]),
        ([8, 5, 5, 5], 2, [5, 5, 5, 5]),  # a loop goes on
        ([8, 4, 5, 4, 5], 2, [4, 5, 4, 5]),
    ],
)
def test_a_text_goes_on_as_it_did_where_it_read_like_now(
    ids: list[int], grade: int, following: list[int] | None
) -> None:
    lookup = PromptLookup()
    assert lookup.grade(ids) == grade
    if following is not None:
        assert lookup.propose(4) == following


def test_a_list_that_grows_is_looked_up_as_a_fresh_one() -> None:
    rng, lookup, ids = np.random.default_rng(0), PromptLookup(), list[int]()
    for _ in range(200):
        ids += rng.integers(0, 4, rng.integers(1, 5)).tolist()
        fresh = PromptLookup()
        assert lookup.grade(ids) == fresh.grade(list(ids))
        if len(ids) > 8:
            assert lookup.propose(5) == fresh.propose(5)


class Machine:
    """A clock, and steps that take 10 ms and a part of that for each token more."""

    def __init__(self, share: float) -> None:
        self.now, self._share = 0.0, share

    def __call__(self) -> float:
        return self.now

    def step(self, drafted: int) -> None:
        self.now += 0.01 * (1 + self._share * drafted)


class Oracle:
    """Guesses tokens of a known text, each of them right with some probability."""

    def __init__(self, text: Sequence[int], right: float) -> None:
        self._text, self._right, self._rng = text, right, np.random.default_rng(0)
        self._length = 0

    def grade(self, ids: Sequence[int]) -> int:
        self._length = len(ids)
        return 1

    def propose(self, count: int) -> list[int]:
        true = self._text[self._length : self._length + count]
        return [token if self._rng.random() < self._right else -1 for token in true]


def simulate(share: float, right: float, steps: int = 2000) -> tuple[float, list[int]]:
    """Plain time over the time with guesses, and how many were made at each step."""
    clock, text, ids, counts = Machine(share), list(range(steps)), [0], list[int]()
    speculation = Speculation(Oracle(text, right), 16, clock)
    while len(ids) < steps:
        draft = speculation.draft(ids, steps - len(ids) - 1)
        clock.step(len(draft))
        counts.append(len(draft))
        going = True
        while going and len(ids) < steps:
            ids.append(text[len(ids)])
            going = speculation.chosen(ids[-1])
    return 0.01 * (steps - 1) / clock.now, counts


@pytest.mark.parametrize("share", [0.02, 0.17, 0.4, 1.0, 3.0])
def test_what_never_comes_true_is_given_up_and_costs_little(share: float) -> None:
    gain, counts = simulate(share, right=0.0)
    assert 0.93 < gain <= 1
    assert sum(counts[-300:]) <= 4


def test_right_guesses_that_cost_more_than_a_step_are_given_up() -> None:
    gain, counts = simulate(share=1.5, right=1.0)
    assert gain > 0.95
    assert sum(map(bool, counts)) < 40


@pytest.mark.parametrize(("share", "least"), [(0.02, 10), (0.17, 3.8), (0.5, 1.7)])
def test_right_guesses_become_as_many_as_are_worth_it(share: float, least: float) -> None:
    gain, counts = simulate(share, right=1.0)
    assert gain > least
    assert max(counts) <= 16


@pytest.mark.parametrize("right", [0.3, 0.5, 0.7, 0.9])
def test_the_number_of_guesses_is_near_the_best_for_what_comes_true(right: float) -> None:
    best = max((1 - right ** (n + 1)) / (1 - right) / (1 + 0.17 * n) for n in range(17))
    assert simulate(0.17, right)[0] > max(0.97, 0.88 * best)


def test_trying_again_finds_out_that_a_text_has_become_easy() -> None:
    clock, text = Machine(0.17), list(range(3000))
    oracle = Oracle(text, 0.0)
    speculation, ids, counts = Speculation(oracle, 16, clock), [0], list[int]()
    while len(ids) < 2000:
        if len(ids) > 500:
            oracle._right = 1.0  # pyright: ignore[reportPrivateUsage]
        draft = speculation.draft(ids, 16)
        clock.step(len(draft))
        counts.append(len(draft))
        going = True
        while going:
            ids.append(text[len(ids)])
            going = speculation.chosen(ids[-1])
    assert sum(counts[:400]) < 60
    assert len(counts) < 1100
    assert counts[-1] > 4


def test_steps_that_others_shared_are_not_timed() -> None:
    clock = Machine(0)
    speculation = Speculation(Oracle([1, 2, 3, 4, 5, 6, 7, 8], 1.0), 4, clock)
    assert speculation.draft([1], 4) == []
    assert not speculation.chosen(2)
    clock.now = 100.0  # meanwhile the batch had two rows
    assert not speculation.chosen(3)
    assert speculation.draft([1, 2, 3], 4) == []
    clock.step(0)
    assert not speculation.chosen(4)
    assert speculation.draft([1, 2, 3, 4], 4) == [5, 6]
    assert speculation.chosen(5)
    assert speculation.chosen(6)
    assert not speculation.chosen(7)


def test_a_clock_that_stands_still_is_no_division_by_zero() -> None:
    pace = Pace()
    for _ in range(3):
        pace.plain(0.0)
    for _ in range(3):
        pace.verified(1, 2, 2, 0.0)
    assert pace.count(1, 8) > 0
    assert pace.count(1, 0) == 0
