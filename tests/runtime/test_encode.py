"""The loop on ids of encoders: which rows run together, and that nothing of a row gets lost or mixed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelm.encode import Encoder, Grouping, Row, Threads, buckets
from edgelm.machine import physical_cores
from edgelm.session import Program


class Echo:
    """A program whose output for a token is its id, so that rows can be recognised; padding is negative."""

    def __init__(self, inputs: Sequence[str] = ("input_ids", "attention_mask")) -> None:
        self.inputs = list(inputs)
        self.calls: list[Mapping[str, NDArray[Any]]] = []

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        self.calls.append(feeds)
        values = np.where(feeds["attention_mask"] == 1, feeds["input_ids"], -1)[..., None].astype(np.float32)
        return [{"tokens": values, "rows": values[:, 0], "asked": values[:, :1]}[name] for name in outputs]


def encoder(program: Echo, tokens: int = 1, threads: Threads | None = None) -> Encoder:
    return Encoder(cast(Program, program), 0, Grouping(tokens, pads=True), threads)


@given(
    lengths=st.lists(st.integers(1, 40), max_size=60),
    batch_size=st.integers(1, 9),
    tokens=st.integers(1, 200),
    pads=st.booleans(),
)
def test_every_row_is_in_one_bucket_within_its_limits(
    lengths: list[int], batch_size: int, tokens: int, pads: bool
) -> None:
    groups = buckets(lengths, batch_size, Grouping(tokens, pads))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) <= batch_size
        assert len(group) == 1 or len(group) * longest <= tokens
        assert pads or len({lengths[i] for i in group}) == 1


def test_rows_of_a_bucket_are_of_like_length() -> None:
    assert buckets([3, 9, 4, 9, 3], 2, Grouping(100, pads=True)) == [[1, 3], [2, 0], [4]]


def test_without_padding_they_are_of_one_length() -> None:
    assert buckets([3, 9, 4, 9, 3], 2, Grouping(100, pads=False)) == [[1, 3], [2], [0, 4]]


def test_one_token_a_bucket_runs_every_text_alone() -> None:
    assert buckets([3, 3, 4], 32, Grouping()) == [[2], [0], [1]]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("tokens", [1, 16])
def test_outputs_come_back_under_their_own_index_without_padding(workers: int, tokens: int) -> None:
    rows = [Row(list(range(i + 1, 2 * i + 2))) for i in range(9)]
    done: list[int] = []
    run = encoder(Echo(), tokens, Threads(workers)).run(rows, "tokens", 4, done.append)
    found = dict(run)
    assert {i: values[:, 0].tolist() for i, values in found.items()} == {i: list(row.ids) for i, row in enumerate(rows)}
    assert sum(done) == len(rows)


def test_rows_are_padded_on_the_right_with_the_pad_token() -> None:
    program = Echo(["input_ids", "attention_mask", "token_type_ids", "logits_index"])
    dict(encoder(program, 100).run([Row([5, 6, 7], [0, 0, 1], (2, 1)), Row([8], None, (0,))], "asked", 2))
    (feeds,) = program.calls
    assert feeds["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert feeds["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert feeds["logits_index"].tolist() == [[2, 1], [0, 0]]


def test_a_program_gets_only_the_inputs_it_has() -> None:
    program = Echo()
    dict(encoder(program).run([Row([1, 2], [0, 0])], "rows", 1))
    assert set(program.calls[0]) == {"input_ids", "attention_mask"}


def test_one_large_text_runs_on_all_threads_and_many_run_side_by_side() -> None:
    narrow, wide = Echo(), Echo()
    loads: list[int] = []

    def load() -> Program:
        loads.append(1)
        return cast(Program, wide)

    shared = encoder(narrow, threads=Threads(2, load, parameters=10**9))
    long = Row(list(range(1, 21)))
    dict(shared.run([long], "rows", 32))
    dict(shared.run([long], "rows", 32))
    assert (len(narrow.calls), len(wide.calls), len(loads)) == (0, 2, 1)
    dict(shared.run([long, long], "rows", 32))
    dict(shared.run([Row([1])], "rows", 32))
    assert (len(narrow.calls), len(wide.calls)) == (3, 2)


def test_nothing_in_gives_nothing_out() -> None:
    assert dict(encoder(Echo()).run([], "rows", 32)) == {}


def test_cores_that_share_their_hardware_count_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for i in range(4):
        folder = tmp_path / f"cpu{i}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{i // 2 * 2}-{i // 2 * 2 + 1}\n")
    assert physical_cores(tmp_path) == 2
    assert physical_cores(tmp_path / "nothing") == 4


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_alone_come_in_their_order_with_every_output(workers: int) -> None:
    program = Echo()
    rows = [Row([i, i + 1]) for i in range(1, 8)]
    found = list(encoder(program, 100, Threads(workers)).alone(rows, ["rows", "tokens"]))
    assert [values[0, 0] for values, _ in found] == [row.ids[0] for row in rows]
    assert all(len(feeds["input_ids"]) == 1 for feeds in program.calls)
