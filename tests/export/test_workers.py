from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgelm_export import workers
from edgelm_export.workers import Digests, in_order


@pytest.fixture(params=[1, 3])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(workers, "threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_results_keep_the_order_of_the_pieces(count: int, processors: int) -> None:
    def work(piece: int) -> int:
        time.sleep(0.001 * (piece % 3))
        return piece * piece

    assert list(in_order(work, range(count))) == [piece * piece for piece in range(count)]


def test_pieces_are_fetched_a_bounded_number_ahead(processors: int) -> None:
    fetched: list[int] = []

    def pieces() -> Iterator[int]:
        for piece in range(1000):
            fetched.append(piece)
            yield piece

    results = in_order(abs, pieces())
    next(results)
    assert len(fetched) <= 8 * processors + 2
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(fetched) <= 8 * processors + 2


def test_an_error_of_a_piece_is_that_of_the_whole_and_no_thread_stays(processors: int) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda piece: 1 // piece, [2, 1, 0, 1]))
    assert threading.active_count() == before


def test_digests_are_computed_beside_other_work(tmp_path: Path) -> None:
    contents = {"a": b"", "b": b"x" * 3_000_000}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with Digests({name: tmp_path / name for name in contents}) as digests:
        assert digests.result() == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def test_a_file_that_cannot_be_read_is_an_error_of_the_result(tmp_path: Path) -> None:
    with Digests({"a": tmp_path / "absent"}) as digests, pytest.raises(FileNotFoundError):
        digests.result()


def test_leaving_stops_the_digests(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    before = threading.active_count()
    with Digests({"large": tmp_path / "large", "other": tmp_path / "large"}):  # a tebibyte would take ten minutes
        pass
    assert threading.active_count() == before
