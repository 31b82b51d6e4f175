"""The memory of sources: one copy a source, whichever beams read it, and few moves when sources leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelm.memory import SourceMemory


def memory(sources: int) -> SourceMemory:
    """Arrays whose values tell the source."""
    numbers = np.arange(sources)
    keys = np.broadcast_to(numbers[:, None, None], (sources, 2, 3)).astype(np.float32).copy()
    return SourceMemory({"keys": keys, "mask": numbers[:, None].repeat(4, 1)})


def sources_of(held: SourceMemory, rows: int) -> list[int]:
    """Which source each row reads, as a program sees it: equal shares, one after the other."""
    arrays = held.inputs(0, rows)
    found = [[int(row.flat[0]) for row in array] for array in arrays.values()]
    assert all(np.ptp(row) == 0 for array in arrays.values() for row in array)
    assert all(array.flags.c_contiguous for array in arrays.values())
    assert found[0] == found[1]
    assert rows % len(found[0]) == 0
    return [source for source in found[0] for _ in range(rows // len(found[0]))]


def where(held: SourceMemory) -> NDArray[Any]:
    return held.inputs(0, 1)["keys"]


@pytest.mark.parametrize(
    ("parents", "read"),
    [
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2]),  # beams grow
        ([2, 2, 1, 1], [2, 2, 1, 1]),  # the last takes the first one's place
        ([1, 2], [1, 2]),
        ([1, 0, 2], [1, 0, 2]),  # a swap
        ([1, 2, 0], [1, 2, 0]),
        ([0, 0, 1, 2, 2], [0, 0, 1, 2, 2]),  # no equal shares
        ([0, 1, 0, 1], [0, 1, 0, 1]),  # not next to each other
        ([1], [1]),
    ],
)
def test_rows_read_what_their_parents_read(parents: list[int], read: list[int]) -> None:
    held = memory(3)
    held.reorder(parents)
    assert sources_of(held, len(parents)) == read


def test_beams_that_change_places_cost_nothing() -> None:
    held = memory(2)
    held.reorder([0, 0, 0, 1, 1, 1])
    before, size = where(held), held.nbytes
    assert not held.reorder([2, 1, 1, 5, 3, 3])
    assert where(held).base is before.base
    assert held.nbytes == size == 2 * (6 * 4 + 4 * 8)
    assert sources_of(held, 6) == [0, 0, 0, 1, 1, 1]


def test_a_source_that_leaves_is_replaced_in_place() -> None:
    held = memory(3)
    held.reorder([0, 0, 1, 1, 2, 2])
    size = held.nbytes
    assert held.reorder([4, 5, 2, 3])
    assert sources_of(held, 4) == [2, 2, 1, 1]
    assert held.reorder([2, 2])
    assert sources_of(held, 2) == [1, 1]
    assert held.nbytes == size


def test_a_row_alone_reads_its_own_source() -> None:
    held = memory(3)
    assert [int(held.inputs(row, row + 1)["mask"][0, 0]) for row in range(3)] == [0, 1, 2]


def test_any_sequence_of_reorders_keeps_every_row_at_its_source() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        held, read = memory(4), [0, 1, 2, 3]
        for _ in range(6):
            parents: Sequence[int] = rng.integers(0, len(read), rng.integers(1, 9)).tolist()
            if rng.random() < 0.5:
                parents = sorted(parents)
            held.reorder(parents)
            read = [read[parent] for parent in parents]
            assert sources_of(held, len(read)) == read
