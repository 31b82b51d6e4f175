from __future__ import annotations

import math

import numpy as np
import pytest

from edgelm.logits import Logits, highest, log_softmax, log_sum_exp

NEG = -math.inf


def log(*probabilities: float) -> Logits:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, np.float32))


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
