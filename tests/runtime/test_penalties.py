"""Processors that favour and disfavour, on logits that are written down."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgelm.errors import InvalidOption
from edgelm.logits import Processor
from edgelm.penalties import dry, frequency_penalty, logit_bias, presence_penalty, repetition_penalty


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    logits = repetition_penalty(2.0)([0, 1, 1, 3], np.array([4, -4, 4, 0, 1], np.float32))
    assert logits.tolist() == [2, -8, 4, 0, 1]


def test_repetition_penalty_below_one_favours_what_was_seen():
    assert repetition_penalty(0.5)([0, 1], np.array([4, -4, 4], np.float32)).tolist() == [8, -2, 4]


def test_repetition_penalty_reaches_tokens_added_later():
    process = repetition_penalty(2.0)
    assert process([0], np.array([4, 4, 4], np.float32)).tolist() == [2, 4, 4]
    assert process([0, 2], np.array([4, 4, 4], np.float32)).tolist() == [2, 4, 2]
    assert process([0, 2, 2], np.array([4, 4, 4], np.float32)).tolist() == [2, 4, 2]


@pytest.mark.parametrize("other", [[1], [1, 1], [1, 1, 1]])
def test_repetition_penalty_forgets_a_sequence_that_was_cut_or_changed(other: list[int]):
    process = repetition_penalty(2.0)
    process([0, 2], np.array([4, 4, 4], np.float32))
    assert process(other, np.array([4, 4, 4], np.float32)).tolist() == [4, 2, 4]


def test_repetition_penalty_tells_beams_apart_that_have_the_same_length_and_last_token():
    process = repetition_penalty(2.0)
    assert process([0, 2], np.array([4, 4, 4], np.float32)).tolist() == [2, 4, 2]
    assert process([1, 2], np.array([4, 4, 4], np.float32)).tolist() == [4, 2, 2]


def test_repetition_penalty_follows_a_list_that_grows():
    process, ids = repetition_penalty(2.0), [0]
    assert process(ids, np.array([4, 4, 4], np.float32)).tolist() == [2, 4, 4]
    ids.append(2)
    assert process(ids, np.array([4, 4, 4], np.float32)).tolist() == [2, 4, 2]
    ids[:] = [1]
    assert process(ids, np.array([4, 4, 4], np.float32)).tolist() == [4, 2, 4]


def test_repetition_penalty_skips_ids_beyond_the_logits_and_accepts_no_ids():
    assert repetition_penalty(2.0)([0, 9], np.array([4, 4], np.float32)).tolist() == [2, 4]
    assert repetition_penalty(2.0)([], np.array([4, 4], np.float32)).tolist() == [4, 4]


def change(process: Processor, ids: list[int], size: int = 8) -> list[float]:
    """What a processor subtracts from each logit."""
    return (10 - process(ids, np.full(size, 10, np.float32))).tolist()


@pytest.mark.parametrize(
    ("window", "presence", "frequency"),
    [(0, [2, 2, 0, 2], [2, 4, 0, 2]), (3, [0, 2, 0, 2], [0, 4, 0, 2]), (1, [0, 2, 0, 0], [0, 2, 0, 0])],
)
def test_presence_counts_once_and_frequency_every_time(window: int, presence: list[float], frequency: list[float]):
    assert change(presence_penalty(2.0, window), [0, 1, 3, 1], 4) == presence
    assert change(frequency_penalty(2.0, window), [0, 1, 3, 1], 4) == frequency


def test_a_negative_penalty_favours():
    assert change(presence_penalty(-1.5), [1], 3) == [0, -1.5, 0]


def test_a_window_moves_along_a_list_that_grows():
    generator, ids = random.Random(3), [1, 2, 3]
    moving = [frequency_penalty(1.0, 4), presence_penalty(1.0, 4), repetition_penalty(2.0, 4)]
    for _ in range(200):
        ids += generator.choices(range(12), k=generator.randint(1, 6))
        counts = [ids[-4:].count(token) for token in range(8)]
        assert change(moving[0], ids) == counts
        assert change(moving[1], ids) == [min(count, 1) for count in counts]
        assert change(moving[2], ids) == [5.0 * min(count, 1) for count in counts]


def test_many_different_ids_are_counted():
    ids = list(range(300)) * 2
    assert change(frequency_penalty(0.5), ids, 300) == [1.0] * 300


def test_a_bias_is_added_to_a_token_or_to_the_last_of_a_sequence():
    process = logit_bias((((1,), 2.0), ((3, 2), -1.0), ((0, 3, 2), 4.0), ((9, 9), 1.0)), 10)
    assert change(process, [3], 4) == [0, -2, 1, 0]
    assert change(process, [0, 3], 4) == [0, -2, -3, 0]
    assert change(process, [], 4) == [0, -2, 0, 0]


def test_a_bias_of_a_token_that_is_not_there_is_refused():
    with pytest.raises(InvalidOption, match=r"option logit_bias names 12, outside 0\.\.9, the model's vocabulary"):
        logit_bias((((1,), 2.0), ((3, 12), -1.0)), 10)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        # [1, 2] came before, then 3: a repetition of 2 tokens, which is the allowed length, costs 4 * 2^0
        ([1, 2, 3, 1, 2], {3: 4.0}),
        # [0, 1, 2] came before: 3 tokens, 4 * 2^1
        ([0, 1, 2, 3, 0, 1, 2], {3: 8.0}),
        # one token that came before is let be
        ([2, 3, 1, 2], {}),
        # two places continue with 3, the longer one counts; another one continues with 4
        ([0, 1, 2, 3, 1, 2, 3, 1, 2, 4, 0, 1, 2], {3: 8.0, 4: 4.0}),
        # the documented example of llama.cpp, a b c c b c y a b c: c after three tokens, y after two, b after one
        ([1, 2, 3, 3, 2, 3, 5, 1, 2, 3], {3: 8.0, 5: 4.0}),
        ([1, 1, 1, 1, 1], {1: 16.0}),
        ([1], {}),
        ([], {}),
    ],
)
def test_dry_disfavours_what_would_prolong_a_repetition(ids: list[int], expected: dict[int, float]):
    for given in (ids, tuple(ids)):
        found = change(dry(4.0, 2.0, 2), given)  # type: ignore[arg-type]
        assert found == [expected.get(token, 0.0) for token in range(8)]


@pytest.mark.parametrize(("window", "penalty"), [(0, 8.0), (7, 8.0), (6, 4.0), (5, 0.0)])
def test_dry_looks_no_further_back_than_its_window(window: int, penalty: float):
    # Of 6 tokens 1 2 3 0 1 2 only two can repeat, and before the last 5, 2 3 0 1 2, nothing stands in front of the 2.
    assert change(dry(4.0, 2.0, 2, window), [0, 1, 2, 3, 0, 1, 2])[3] == penalty


@pytest.mark.parametrize(
    ("breakers", "penalty"), [((), 8.0), ((0,), 4.0), ((1,), 0.0), ((2,), 0.0), ((3,), 0.0), ((6,), 8.0)]
)
def test_no_repetition_reaches_over_a_breaker_and_none_is_disfavoured(breakers: tuple[int, ...], penalty: float):
    assert change(dry(4.0, 2.0, 2, 0, breakers), [0, 1, 2, 3, 0, 1, 2])[3] == penalty


def test_dry_stays_finite():
    logits = dry(1.0, 100.0, 2)([1] * 500, np.zeros(4, np.float32))
    assert logits[1] == pytest.approx(-(100.0**19))


def naive_dry(ids: list[int], window: int, breakers: set[int], size: int) -> list[float]:
    """The definition, word by word: base 2, multiplier 1, 2 tokens allowed."""
    text = ids[-window:] if window else ids
    limit = next((n for n in range(len(text)) if text[-1 - n] in breakers), len(text))
    longest: dict[int, int] = {}
    for place in range(1, len(text)):
        length = next((n for n in range(place) if text[place - 1 - n] != text[-1 - n]), place)
        longest[text[place]] = max(longest.get(text[place], 0), min(length, limit))
    return [
        2.0 ** (longest[token] - 2) if longest.get(token, 0) >= 2 and token not in breakers else 0.0
        for token in range(size)
    ]


@pytest.mark.parametrize("window", [0, 9, 25])
def test_dry_of_a_text_that_grows_equals_the_definition(window: int):
    generator, ids = random.Random(window), [0]
    process = dry(1.0, 2.0, 2, window, (3,))
    for _ in range(250):
        ids += generator.choices(range(4), weights=(8, 8, 4, 1), k=generator.randint(1, 3))
        assert change(process, ids, 4) == pytest.approx(naive_dry(ids, window, {3}, 4))
        if generator.random() < 0.05:
            del ids[generator.randint(1, len(ids)) :]
