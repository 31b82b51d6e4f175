"""Filters on distributions that are written down: what is left of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from edgelm.filters import (
    Candidates,
    Filter,
    dynamic_temperature,
    epsilon_cutoff,
    eta_cutoff,
    min_p,
    temperature,
    top_k,
    top_n_sigma,
    top_p,
    typical_p,
    xtc,
)
from edgelm.logits import Logits

NEG = -math.inf


def log(*probabilities: float) -> Logits:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, np.float32))


def candidates(logits: Sequence[float] | Logits) -> Candidates:
    return Candidates(np.array(logits, np.float32))


def kept(narrow: Filter, logits: Sequence[float] | Logits) -> list[int]:
    """The ids a filter leaves that can be drawn; it leaves them with their logits, whatever was removed before."""
    left = narrow(candidates(logits))
    tokens = np.arange(len(logits)) if left.tokens is None else left.tokens
    assert np.array_equal(left.logits, np.array(logits, np.float32)[tokens])
    possible = tokens[left.logits > NEG].tolist()
    gaps = np.full(2 * len(logits), NEG, np.float32)
    gaps[::2] = logits
    again = narrow(Candidates(gaps))
    found = np.arange(gaps.size) if again.tokens is None else again.tokens
    assert found[again.logits > NEG].tolist() == [2 * token for token in possible]
    return possible


def test_temperature_divides_the_distances_between_logits():
    assert temperature(2.0)(candidates([5, 3, 1, NEG])).logits.tolist() == [0, -1, -2, NEG]


def test_a_tiny_temperature_leaves_only_the_best_without_overflow():
    assert temperature(1e-320)(candidates([1e4, 9e3, -1e4])).weights.tolist() == [1, 0, 0]


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


@pytest.mark.parametrize(("count", "ids"), [(0.3, [0]), (1.0, [0, 1]), (2.0, [0, 1, 2, 3])])
def test_top_n_sigma_keeps_what_is_within_n_standard_deviations_of_the_best(count: float, ids: list[int]):
    # mean 4, variance (9 + 4 + 0 + 0 + 25) / 5 = 7.6, sigma 2.757: the borders are 6.17, 4.24 and 1.49
    assert kept(top_n_sigma(count), [7, 6, 4, 4, -1]) == ids


def test_top_n_sigma_is_exact_far_from_zero():
    logits = np.random.default_rng(1).normal(1e4, 2, 30_000).astype(np.float32)
    border = logits.max() - 2.0 * logits.std(dtype=np.float64)
    apart = set(kept(top_n_sigma(2.0), logits)) ^ set(np.flatnonzero(logits >= border).tolist())
    assert len(apart) <= 2  # neighbouring float32 numbers are 0.001 apart here


# The entropy of these is 0.4 * 0.916 + 2 * 0.2 * 1.609 + 2 * 0.1 * 2.303 = 1.471, and they are 0.554, 0.139 and 0.832 away from it.
TYPICAL = (0.4, 0.2, 0.2, 0.1, 0.1)


@pytest.mark.parametrize(
    ("mass", "ids"), [(0.0, [1, 2]), (0.3, [1, 2]), (0.39, [1, 2]), (0.41, [0, 1, 2]), (0.85, [0, 1, 2, 3, 4])]
)
def test_typical_p_keeps_what_is_nearest_to_the_entropy_and_all_that_tie(mass: float, ids: list[int]):
    assert kept(typical_p(mass), log(*TYPICAL)) == ids


def naive_typical_p(logits: Logits, mass: float) -> set[int]:
    exact = logits.astype(np.float64)
    surprise = np.log(np.exp(exact - exact.max()).sum()) + exact.max() - exact
    apart = np.abs(surprise - (np.exp(-surprise) * surprise).sum())
    order = np.argsort(apart, kind="stable")
    held = np.cumsum(np.exp(-surprise[order]))
    return set(np.flatnonzero(apart <= apart[order[int((held < mass).sum())]] + 1e-6).tolist())


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("mass", [0.2, 0.9])
def test_typical_p_of_a_large_vocabulary_equals_the_full_sort(spread: float, mass: float):
    logits = (np.random.default_rng(8).standard_normal(20_011) * spread).astype(np.float32)
    border = set(kept(typical_p(mass), logits)) ^ naive_typical_p(logits, mass)
    assert len(border) <= 8  # float32 against float64


@pytest.mark.parametrize(("least", "ids"), [(0.05, [0, 1, 2, 3]), (0.06, [0, 1, 3]), (0.2, [1, 3]), (0.6, [1])])
def test_epsilon_cutoff_keeps_what_is_likely_enough_and_the_likeliest(least: float, ids: list[int]):
    assert kept(epsilon_cutoff(least), log(0.15, 0.5, 0.0501, 0.2999)) == ids


@pytest.mark.parametrize(
    ("epsilon", "ids"),
    # exp(-entropy) is 1/4 where all are equal: sqrt(0.04) / 4 = 0.05, sqrt(0.64) / 4 = 0.2, sqrt(1) / 4 = 0.25 at most.
    [(0.04, [0, 1, 2, 3]), (0.64, [0, 1, 2, 3])],
)
def test_eta_cutoff_of_equal_tokens_keeps_them(epsilon: float, ids: list[int]):
    assert kept(eta_cutoff(epsilon), [1.0] * 4) == ids


@pytest.mark.parametrize(("epsilon", "ids"), [(0.04, [0, 1, 2]), (0.09, [0, 1]), (0.16, [0, 1]), (0.9, [0])])
def test_eta_cutoff_asks_for_less_where_many_are_likely(epsilon: float, ids: list[int]):
    # entropy 0.6 * 0.511 + 0.3 * 1.204 + 0.07 * 2.659 + 0.03 * 3.507 = 0.959, exp(-0.959) = 0.383:
    # min(0.04, 0.077) = 0.04, min(0.09, 0.115) = 0.09, min(0.16, 0.153) = 0.153, min(0.9, 0.364) = 0.364
    assert kept(eta_cutoff(epsilon), log(0.6, 0.3, 0.07, 0.03)) == ids


def draws(*numbers: float) -> Iterator[float]:
    return iter(numbers)


@pytest.mark.parametrize(
    ("threshold", "ids"), [(0.3, [0, 1, 2, 3]), (0.25, [0, 2, 3]), (0.1, [0, 2]), (0.05, [2]), (0.0, [2])]
)
def test_xtc_removes_all_likely_tokens_but_the_least_likely_of_them(threshold: float, ids: list[int]):
    assert kept(xtc(1.0, threshold, lambda: 0.0), log(0.15, 0.5, 0.06, 0.29)) == ids


def test_xtc_keeps_the_last_of_equals():
    assert kept(xtc(1.0, 0.2, lambda: 0.0), log(0.25, 0.25, 0.25, 0.1, 0.15)) == [2, 3, 4]


def test_xtc_works_now_and_then():
    numbers = draws(0.49, 0.5, 0.2, 0.99)
    narrow = xtc(0.5, 0.1, lambda: next(numbers))
    assert [narrow(candidates(log(0.6, 0.4))).logits.size for _ in range(4)] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("logits", "value"),
    # entropy / log(n): 1 for equal ones; 0 for a certain one; 0.5 * log 2 * 2 / log 4 = 1/2 for two of four
    [([0, 0, 0], 1.5), ([0, -1e9, -1e9], 0.5), ([0, 0, -60, -60], 1.0), ([0, NEG, 0, NEG], 1.5)],
)
def test_dynamic_temperature_follows_the_entropy_of_what_is_left(logits: list[float], value: float):
    left = dynamic_temperature(0.5, 1.0, 1.0)(candidates(logits))
    expected = np.array(logits, np.float32) / np.float32(value)
    np.testing.assert_allclose(left.logits, expected, rtol=1e-6)


def test_dynamic_temperature_bends_by_its_exponent_and_never_falls_below_zero():
    left = dynamic_temperature(2.0, 1.0, 2.0)(candidates([0, 0, -60, -60]))
    assert left.logits.tolist() == pytest.approx([0, 0, -80, -80])  # 0 + 3 * (1/2)^2 = 0.75
    assert dynamic_temperature(2.0, 1.0, 1.0)(candidates([0, NEG])).logits.tolist() == [0, NEG]


def test_temperature_leaves_the_logits_to_dynamic_temperature():
    assert temperature(2.0, 0.5)(candidates([5, 3, 1])).logits.tolist() == [5, 3, 1]


def test_candidates_keep_their_ids_and_take_exponentials_once():
    first = Candidates(log(0.1, 0.2, 0.3, 0.4))
    weights = first.weights
    second = first.keep(np.array([1, 2, 3])).keep(np.array([0, 2]))
    assert [second.token(place) for place in range(2)] == [1, 3]
    assert second.weights.tolist() == weights[[1, 3]].tolist()
    assert second.weights / second.total == pytest.approx([1 / 3, 2 / 3])
    assert second.entropy == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
