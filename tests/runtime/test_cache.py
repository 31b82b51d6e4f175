"""The static KV cache: grows by buckets, keeps what is valid, never allocates the whole context or more than a window."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

from edgelm import host_memory
from edgelm.cache import SPARE, StaticKVCache, capacity, copies, first_position
from edgelm.errors import ContextOverflow, GenerationError
from edgelm.signature import CacheGeometry, LayerCache

FULL, WINDOW, LATENT = LayerCache(3, 8), LayerCache(2, 8, window=20), LayerCache(1, 16, latent=True)
GEOMETRY = CacheGeometry((FULL, WINDOW, FULL, LATENT))
BYTES_PER_TOKEN = (2 * 2 * 3 * 8 + 16) * 4
WINDOW_BYTES = capacity(WINDOW, 0) * 2 * 2 * 8 * 4


def test_a_long_context_costs_nothing_until_it_is_used() -> None:
    cache = StaticKVCache(GEOMETRY, batch=1, limit=1_000_000)
    assert cache.max_length == 256
    assert cache.nbytes == 256 * BYTES_PER_TOKEN + WINDOW_BYTES


def test_capacity_doubles_and_stops_at_the_limit() -> None:
    cache = StaticKVCache(CacheGeometry((FULL, WINDOW)), batch=1, limit=700)
    assert not cache.reserve(256)
    assert cache.reserve(257)
    assert cache.max_length == 512
    assert cache.reserve(513)
    assert cache.max_length == 700
    with pytest.raises(ContextOverflow, match=r"701 positions are needed and this model was loaded for 700"):
        cache.reserve(701)


def test_latents_leave_little_room_since_steps_go_through_all_of_it() -> None:
    cache = StaticKVCache(CacheGeometry((LATENT,)), batch=1, limit=10_000)
    buckets = [cache.max_length]
    for length in range(1, 10_001):
        if cache.reserve(length):
            buckets.append(cache.max_length)
            assert 0 <= cache.max_length - length < max(256, length // 8 + 1)
    assert buckets[:9] == [256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304]
    assert buckets[-1] == 10_000


def test_growing_never_holds_more_than_one_buffer_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []
    allocate = host_memory.buffer

    def watched(*arguments: Any, **options: Any) -> Any:
        alive.append(sum(one() is not None for one in made))
        array = allocate(*arguments, **options)
        made.append(weakref.ref(array))
        return array

    monkeypatch.setattr(host_memory, "buffer", watched)
    cache = StaticKVCache(CacheGeometry((FULL,) * 4), batch=1, limit=1024)
    cache.reserve(300)
    assert alive == [*range(8), *[8] * 8]


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


def filled(rows: int, limit: int = 64) -> tuple[StaticKVCache, list[list[int]]]:
    """A cache, and the number that every valid position of each row holds."""
    return StaticKVCache(GEOMETRY, rows, limit), [[] for _ in range(rows)]


def write(cache: StaticKVCache, held: list[list[int]], row: int, number: int) -> None:
    """What a program does with one token: the next position of a row, in all buffers; a full window first moves down."""
    length = cache.lengths[row]
    cache.reserve(length + 1)
    for name, array in cache.rows(0, len(held))[0].items():
        layer = layer_of(name)
        dropped = first_position(layer, length + 1) - first_position(layer, length)
        last = length - first_position(layer, length + 1)
        array[row, :, :last] = array[row, :, dropped : dropped + last].copy()
        array[row, :, last] = number
    cache.advance(row, 1)
    held[row].append(number)


def layer_of(name: str) -> LayerCache:
    return GEOMETRY.layers[int(name.split(".")[1])]


def contents(cache: StaticKVCache) -> list[list[int]]:
    """The numbers of every row's valid positions, which are the same in all buffers, heads and columns."""
    found: list[list[int]] = []
    for row, length in enumerate(cache.lengths):
        inputs, _ = cache.rows(row, row + 1)
        numbers = inputs["past_key_values.0.key"][0, 0, :length, 0]
        for name, array in inputs.items():
            first = first_position(layer_of(name), length)
            assert (array[0, :, : length - first] == numbers[first:, None]).all()
        found.append(numbers.astype(int).tolist())
    return found


def reorder(cache: StaticKVCache, held: list[list[int]], parents: list[int]) -> None:
    cache.reorder(parents)
    held[:] = [list(held[parent]) for parent in parents]


@pytest.mark.parametrize(
    "parents",
    [
        [0, 0, 0, 0, 1, 1, 2],  # more rows than before
        [2, 1],  # a row leaves, the last takes its place
        [1],
        [1, 0, 2],  # a swap
        [1, 2, 0],  # a cycle
        [2, 2, 2],
        [0, 0, 1],
    ],
)
def test_rows_take_over_what_their_parents_hold(parents: list[int]) -> None:
    cache, held = filled(3)
    for row, count in enumerate((5, 2, 9)):
        for position in range(count):
            write(cache, held, row, 100 * row + position)
    reorder(cache, held, parents)
    assert contents(cache) == held


def test_any_sequence_of_steps_and_reorders_keeps_every_row() -> None:
    rng = np.random.default_rng(1)
    number = 0
    for _ in range(40):
        cache, held = filled(3, limit=600)
        for _ in range(12):
            for row in range(len(held)):
                for _ in range(int(rng.integers(1, 40 if rng.random() < 0.1 else 3))):
                    write(cache, held, row, number := number + 1)
            row = int(rng.integers(len(held)))
            length = max(0, len(held[row]) - int(rng.integers(0, 20)))
            if not length or first_position(WINDOW, length) == first_position(WINDOW, len(held[row])):
                cache.truncate(row, length)
                held[row] = held[row][:length]
            reorder(cache, held, rng.integers(0, len(held), rng.integers(1, 8)).tolist())
            assert contents(cache) == held


def test_a_row_is_copied_up_to_where_it_can_go_back() -> None:
    cache, held = filled(2)
    for number in range(30):
        write(cache, held, 1, number)
    for length in (30, 17, 0):
        assert cache.holds(1, length)
        copied = cache.copy(1, length)
        assert contents(copied) == [list(range(length))]
    assert contents(cache) == held


def test_caches_of_one_row_are_joined_and_room_for_rows_doubles() -> None:
    cache, held = filled(1, limit=100)
    write(cache, held, 0, 7)
    rooms: list[int] = []
    for row in range(1, 6):
        other, one = filled(1, limit=100 + row)
        for number in range(40 * row if row < 3 else 3):
            write(other, one, 0, 1000 * row + number)
        cache.append(other)
        held += one
        rooms.append(cache.room)
        assert contents(cache) == held
    assert rooms == [2, 4, 4, 8, 8]
    assert (cache.limit, cache.max_length) == (105, 104)
    reorder(cache, held, [5, 2, 0])
    write(cache, held, 1, 5)
    assert contents(cache) == held


def test_only_what_differs_is_copied() -> None:
    cache, held = filled(1)
    for number in range(20):
        write(cache, held, 0, number)
    reorder(cache, held, [0, 0, 0])
    for row in range(3):
        write(cache, held, row, 50 + row)
    for array in cache.rows(0, 3)[0].values():
        array[:, :, :20] += np.array([0.25, 0.5, 0.75], array.dtype)[:, None, None, None]  # told apart from here on
    reorder(cache, held, [2, 1, 2])
    for array in cache.rows(0, 3)[0].values():
        np.testing.assert_array_equal(array[:, 0, :20, 0] % 1, [[0.25] * 20, [0.5] * 20, [0.75] * 20])
        np.testing.assert_array_equal(array[:, 0, 20, 0], [52, 51, 52])


def test_rows_that_leave_and_come_back_find_room() -> None:
    cache, held = filled(4)
    for row in range(4):
        write(cache, held, row, row)
    before = cache.nbytes
    reorder(cache, held, [3, 1])
    reorder(cache, held, [1, 1, 0, 0])
    assert contents(cache) == [[1], [1], [3], [3]]
    assert cache.nbytes == before


@pytest.mark.parametrize("seed", range(30))
def test_each_row_is_copied_once_and_each_cycle_takes_one_detour(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 12))
    wanted = [int(row) for row in (rng.permutation(rows) if seed % 2 else rng.integers(0, rows, rows))]
    parents = {row: parent for row, parent in enumerate(wanted) if row != parent}
    held = {row: row for row in range(rows)}
    order = list(copies(parents))
    for source, target in order:
        held[target] = held[source]
    assert [held[row] for row in range(rows)] == wanted
    detours = [target for _, target in order if target == SPARE]
    assert len(detours) == sum(_leads_a_cycle(parents, row) for row in parents)
    assert len(order) == len(parents) + len(detours)


def _leads_a_cycle(parents: dict[int, int], row: int) -> bool:
    """True for one row of each group of rows that want each other's contents all around."""
    path = [row]
    while path[-1] in parents and parents[path[-1]] not in path:
        path.append(parents[path[-1]])
    return parents.get(path[-1]) == row == min(path)


def test_truncating_only_shortens() -> None:
    cache = StaticKVCache(GEOMETRY, batch=1, limit=64)
    cache.advance(0, 10)
    cache.truncate(0, 20)
    assert cache.lengths == [10]
    cache.truncate(0, 3)
    assert cache.lengths == [3]


def test_a_window_of_a_long_sequence_holds_its_last_positions_in_their_order() -> None:
    cache, held = filled(1, limit=200)
    for number in range(150):
        write(cache, held, 0, number)
        first = first_position(WINDOW, number + 1)
        assert min(number + 1, 20) <= number + 1 - first <= capacity(WINDOW, 200)
        assert contents(cache) == held
    assert cache.rows(0, 1)[0]["past_key_values.1.key"].shape == (1, 2, capacity(WINDOW, 200), 8)


def test_windows_stay_where_they_are_when_the_rest_grows() -> None:
    cache = StaticKVCache(GEOMETRY, batch=2, limit=1024)
    before = cache.rows(0, 2)[0]
    cache.reserve(1000)
    after = cache.rows(0, 2)[0]
    moved = {name for name in before if not np.shares_memory(before[name], after[name])}
    assert moved == {name for name in before if ".1." not in name}
    assert cache.nbytes == 2 * (1024 * BYTES_PER_TOKEN + WINDOW_BYTES)


def test_a_window_cannot_go_back_to_what_it_dropped() -> None:
    cache = StaticKVCache(GEOMETRY, batch=1, limit=64)
    cache.advance(0, capacity(WINDOW, 64) + 5)
    cache.truncate(0, capacity(WINDOW, 64) + 1)
    with pytest.raises(
        GenerationError, match=r"row 0 cannot go back from 37 to 36 positions: layer 1 keeps the last 20"
    ):
        cache.truncate(0, capacity(WINDOW, 64))
    assert cache.lengths == [37]
    assert [cache.holds(0, length) for length in (38, 37, 36, 1, 0)] == [True, True, False, False, True]
    cache.truncate(0, 0)
    assert cache.lengths == [0]


def test_a_latent_layer_has_one_buffer() -> None:
    inputs, outputs = StaticKVCache(GEOMETRY, batch=1, limit=64).rows(0, 1)
    assert [name for name in (*inputs, *outputs) if ".3." in name] == ["past_key_values.3.key", "present.3.key"]


def test_a_token_costs_what_the_geometry_says() -> None:
    assert GEOMETRY.bytes_per_token == BYTES_PER_TOKEN
    assert GEOMETRY.window_bytes == 20 * 2 * 2 * 8 * 4
    assert CacheGeometry((FULL,) * 2, "float16").bytes_per_token == 2 * 2 * 3 * 8 * 2
    assert GEOMETRY.facts() == {"cache_bytes_per_1000_tokens": 448_000, "cache_bytes_of_windows": 2_560}
    assert CacheGeometry((FULL,)).facts() == {"cache_bytes_per_1000_tokens": 192_000}
