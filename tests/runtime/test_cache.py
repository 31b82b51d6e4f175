"""The static KV cache: grows by buckets, keeps what is valid, never allocates the whole context."""

from __future__ import annotations

import numpy as np
import pytest

from edgelm.cache import StaticKVCache
from edgelm.errors import ContextOverflow
from edgelm.signature import CacheGeometry

GEOMETRY = CacheGeometry(num_layers=2, num_key_value_heads=3, head_dim=8)


def test_a_long_context_costs_nothing_until_it_is_used() -> None:
    cache = StaticKVCache(GEOMETRY, batch=1, limit=1_000_000)
    assert cache.max_length == 256
    assert cache.nbytes == 256 * GEOMETRY.bytes_per_token


def test_capacity_doubles_and_stops_at_the_limit() -> None:
    cache = StaticKVCache(GEOMETRY, batch=1, limit=700)
    assert not cache.reserve(256)
    assert cache.reserve(257)
    assert cache.max_length == 512
    assert cache.reserve(513)
    assert cache.max_length == 700
    with pytest.raises(ContextOverflow, match=r"701 positions are needed and this model was loaded for 700"):
        cache.reserve(701)


def test_growing_keeps_valid_positions_of_every_row() -> None:
    cache = StaticKVCache(GEOMETRY, batch=2, limit=1024)
    inputs, _ = cache.rows(0, 2)
    rng = np.random.default_rng(0)
    for array in inputs.values():
        array[...] = rng.standard_normal(array.shape)
    cache.advance(0, 5)
    cache.advance(1, 200)
    before = {name: array.copy() for name, array in inputs.items()}
    cache.reserve(300)
    for name, array in cache.rows(0, 2)[0].items():
        np.testing.assert_array_equal(array[0, :, :5], before[name][0, :, :5])
        np.testing.assert_array_equal(array[1, :, :200], before[name][1, :, :200])


def test_inputs_and_outputs_are_one_memory() -> None:
    cache = StaticKVCache(GEOMETRY, batch=3, limit=64)
    inputs, outputs = cache.rows(1, 2)
    inputs["past_key_values.1.value"][...] = 7
    assert (outputs["present.1.value"] == 7).all()
    assert inputs["past_key_values.0.key"].shape == (1, 3, 64, 8)
    assert inputs["past_key_values.0.key"].flags.c_contiguous


def test_moving_and_shrinking_takes_a_row_out() -> None:
    cache = StaticKVCache(GEOMETRY, batch=3, limit=64)
    cache.rows(2, 3)[0]["past_key_values.0.key"][:, :, :4] = 5
    cache.advance(2, 4)
    cache.move(2, 0)
    cache.shrink(2)
    assert cache.lengths == [4, 0]
    assert (cache.rows(0, 1)[0]["past_key_values.0.key"][:, :, :4] == 5).all()


def test_truncating_only_shortens() -> None:
    cache = StaticKVCache(GEOMETRY, batch=1, limit=64)
    cache.advance(0, 10)
    cache.truncate(0, 20)
    assert cache.lengths == [10]
    cache.truncate(0, 3)
    assert cache.lengths == [3]


def test_a_token_costs_what_the_geometry_says() -> None:
    assert GEOMETRY.bytes_per_token == 2 * 2 * 3 * 8 * 4
    assert CacheGeometry(2, 3, 8, "float16").bytes_per_token == 2 * 2 * 3 * 8 * 2
