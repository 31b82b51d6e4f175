from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from edgelm.logits import (
    Logits,
    Processor,
    highest,
    log_softmax,
    log_sum_exp,
    min_p,
    repetition_penalty,
    softmax_weights,
    temperature,
    top_k,
    top_p,
)

NEG = -math.inf


def log(*probabilities: float) -> Logits:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, np.float32))


def kept(process: Processor, logits: Sequence[float] | Logits) -> list[int]:
    """The ids a filter leaves; what it leaves must be unchanged."""
    before = np.array(logits, np.float32)
    after = process([], before.copy())
    left = np.flatnonzero(after > NEG)
    assert np.array_equal(after[left], before[left])
    assert after.dtype == np.float32
    return left.tolist()


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


def test_temperature_divides_the_distances_between_logits():
    assert temperature(2.0)([], np.array([5, 3, 1, NEG], np.float32)).tolist() == [0, -1, -2, NEG]


def test_a_tiny_temperature_leaves_only_the_best_without_overflow():
    weights, _ = softmax_weights(temperature(1e-320)([], np.array([1e4, 9e3, -1e4], np.float32)))
    assert weights.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("k", "ids"), [(1, [2]), (2, [2, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_top_k_keeps_the_k_highest(k: int, ids: list[int]):
    assert kept(top_k(k), [1, -2, 5, 0, 3]) == ids


def test_top_k_keeps_all_that_tie_with_the_last():
    assert kept(top_k(2), [3, 1, 1, 0, 1]) == [0, 1, 2, 4]


def test_top_k_beyond_what_is_left_removes_nothing_more():
    assert kept(top_k(3), [1, NEG, 2, NEG]) == [0, 2]


@pytest.mark.parametrize(
    ("p", "ids"),
    [(0.0, [1]), (0.4, [1]), (0.6, [1, 3]), (0.9, [0, 1, 3]), (0.97, [0, 1, 2, 3]), (0.999999, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_that_hold_the_mass(p: float, ids: list[int]):
    assert kept(top_p(p), log(0.15, 0.5, 0.05, 0.3)) == ids


def test_top_p_stops_when_the_mass_is_reached_exactly():
    assert kept(top_p(0.5), [0.0, 0.0, 0.0, 0.0]) == [2, 3]


def test_top_p_measures_mass_among_the_tokens_that_are_left():
    assert kept(top_p(0.6), [math.log(0.2), NEG, math.log(0.1), math.log(0.1)]) == [0, 3]


@pytest.mark.parametrize(("share", "ids"), [(1.0, [1]), (0.5, [1, 3]), (0.25, [0, 1, 3]), (0.05, [0, 1, 2, 3])])
def test_min_p_keeps_what_is_likely_enough_beside_the_best(share: float, ids: list[int]):
    assert kept(min_p(share), log(0.15, 0.5, 0.05, 0.3)) == ids


def naive_top_p(logits: Logits, p: float) -> list[int]:
    order = np.argsort(-logits.astype(np.float64), kind="stable")
    weights = np.exp(logits[order].astype(np.float64) - logits.max())
    heavier = np.cumsum(weights) - weights
    return sorted(order[: max(1, int((heavier < p * weights.sum()).sum()))].tolist())


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("p", [0.3, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary_equals_the_full_sort(spread: float, p: float):
    logits = (np.random.default_rng(5).standard_normal(20_011) * spread).astype(np.float32)
    border = set(kept(top_p(p), logits)) ^ set(naive_top_p(logits, p))
    # float32 weights against float64: one token on the border may fall to either side
    assert len(border) <= 1 + 3 * (spread == 0.01)


@pytest.mark.parametrize("k", [1, 50, 2500, 20_000])
def test_top_k_of_a_large_vocabulary_equals_the_full_sort(k: int):
    logits = np.random.default_rng(6).standard_normal(20_011).astype(np.float32)
    logits[::7] = NEG
    expected = np.flatnonzero((logits >= np.sort(logits)[-k]) & (logits > NEG))
    assert kept(top_k(k), logits) == expected.tolist()


def test_softmax_weights_are_relative_to_the_likeliest():
    weights, index = softmax_weights(log(0.1, 0.4, 0.2))
    assert index is None
    assert weights == pytest.approx([0.25, 1.0, 0.5])


def test_softmax_weights_skip_the_removed_when_few_are_left():
    logits = np.full(100, NEG, np.float32)
    logits[[7, 30]] = log(0.2, 0.8)
    weights, index = softmax_weights(logits)
    assert index is not None
    assert index.tolist() == [7, 30]
    assert weights == pytest.approx([0.25, 1.0])


def test_log_sum_exp_turns_logits_into_log_probabilities():
    assert log_sum_exp(log(0.1, 0.4, 0.5)) == pytest.approx(0.0, abs=1e-6)
    assert log_sum_exp(log(0.1, 0.4, 0.5) + 300) == pytest.approx(300.0)
    assert log_sum_exp(np.array([NEG, 2.0, NEG], np.float32)) == 2.0


def test_log_softmax_gives_log_probabilities():
    np.testing.assert_allclose(np.exp(log_softmax(log(0.1, 0.4, 0.5) + 7)), [0.1, 0.4, 0.5], rtol=1e-5)
    for bad in (math.nan, math.inf):
        assert np.isnan(log_softmax(np.array([1, bad, 2], np.float32))).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_log_sum_exp_shows_damaged_logits(bad: float):
    assert not math.isfinite(log_sum_exp(np.array([1, bad], np.float32)))
    assert log_sum_exp(np.full(3, NEG, np.float32)) == NEG


@pytest.mark.parametrize("size", [1, 5, 511, 512, 3_001, 150_001])
@pytest.mark.parametrize("count", [1, 8, 300])
def test_highest_holds_the_highest_and_few_more(size: int, count: int):
    logits = np.random.default_rng(7).permutation(size).astype(np.float32)
    found = highest(logits, count)
    assert set(logits[found].astype(int)) >= set(range(max(size - count, 0), size))
    assert found.size == len(set(found.tolist())) <= 8 * count


def test_highest_never_holds_what_was_removed():
    for size in (6, 5_000):
        logits = np.full(size, NEG, np.float32)
        logits[[2, 4]] = 1.0
        assert sorted(highest(logits, 4).tolist()) == [2, 4]
        assert highest(np.full(size, NEG, np.float32), 4).tolist() == []


def test_highest_holds_all_that_tie_with_the_last():
    assert sorted(highest(np.array([3, 1, 1, 0, 1], np.float32), 2).tolist()) == [0, 1, 2, 4]
