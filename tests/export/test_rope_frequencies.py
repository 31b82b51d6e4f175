"""Frequencies of rotary positions by hand-computed values; tests/parity compares whole models of every kind with transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgelm_export.blocks.rotary import inverse_frequencies
from edgelm_export.config import RopeConfig

# With a base of 10^4 and 8 dimensions that turn: 1, 1/10, 1/100, 1/1000.
PLAIN = np.array([1, 0.1, 0.01, 0.001])


def frequencies(kind: str, *, head_dim: int = 8, **numbers: Any) -> list[float]:
    return inverse_frequencies(RopeConfig(10000.0, kind, **numbers), head_dim).astype(float).tolist()


def near(values: object) -> object:
    return pytest.approx(np.asarray(values).tolist(), rel=1e-6)


def test_each_pair_turns_slower_than_the_one_before() -> None:
    assert frequencies("default") == near(PLAIN)


def test_a_part_of_a_head_has_the_frequencies_of_a_head_of_that_size() -> None:
    assert frequencies("default", head_dim=32, rotary_dim=8) == near(PLAIN)


def test_linear_scaling_divides_all() -> None:
    assert frequencies("linear", factor=4.0) == near(PLAIN / 4)


def test_proportional_rotation_leaves_the_last_pairs_standing() -> None:
    assert frequencies("proportional", proportion=0.5) == near([1, 0.1, 0, 0])
    assert frequencies("proportional", proportion=0.7, factor=2.0) == near([0.5, 0.05, 0, 0])


def test_llama3_keeps_short_waves_divides_long_ones_and_blends_between() -> None:
    # Wavelengths are 2 pi times 1, 10, 100, 1000; the bounds are 100 and 1000, so the third lies between.
    found = frequencies(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=10.0, original_max_position_embeddings=1000
    )
    share = (1000 / (2 * math.pi * 100) - 1) / (10 - 1)
    assert found == near([1, 0.1, 0.01 * (share + (1 - share) / 8), 0.001 / 8])


def test_yarn_blends_by_how_often_a_pair_turns() -> None:
    # The pair that turns n times in 1,000 positions has the number log(1000 / (2 pi n)) / log(10): 0.70 for 32 turns, which is
    # rounded down, and 2.20 for one, rounded up. Between pairs 0 and 3 the blend is linear.
    found = frequencies("yarn", factor=4.0, original_max_position_embeddings=1000)
    slowed = np.array([0, 1 / 3, 2 / 3, 1])
    assert found == near(PLAIN * (1 - slowed) + PLAIN / 4 * slowed)


def test_yarn_without_rounding_blends_between_the_very_numbers() -> None:
    first, last = (math.log10(1000 / (2 * math.pi * turns)) for turns in (32, 1))
    slowed = np.clip((np.arange(4) - first) / (last - first), 0, 1)
    found = frequencies("yarn", factor=4.0, original_max_position_embeddings=1000, truncate=False)
    assert found == near(PLAIN * (1 - slowed) + PLAIN / 4 * slowed)


def test_longrope_has_a_divisor_for_each_pair_and_others_for_long_texts() -> None:
    short, long = (1.0, 1.0, 2.0, 4.0), (1.0, 2.0, 5.0, 10.0)
    rope = RopeConfig(10000.0, "longrope", short_factor=short, long_factor=long)
    assert inverse_frequencies(rope, 8).tolist() == near([1, 0.1, 0.005, 0.00025])
    assert inverse_frequencies(rope, 8, long=True).tolist() == near([1, 0.05, 0.002, 0.0001])


def test_a_longrope_has_a_short_context_only_where_a_context_gets_longer() -> None:
    rope = RopeConfig(10000.0, "longrope", original_max_position_embeddings=64)
    assert rope.short_context(65) == 64
    assert rope.short_context(64) is None
    assert RopeConfig(10000.0, "yarn", original_max_position_embeddings=64).short_context(100) is None
