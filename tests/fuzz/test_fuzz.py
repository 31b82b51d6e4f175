"""A short run over every parser; `make parity` has the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelm.errors import CheckpointError
from tests.fuzz import targets, worker
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import damaged, fuzz

COUNT = 40  # a target


def test_damaged_files_are_taken_or_refused() -> None:
    assert fuzz(list(TARGETS), COUNT, seed=1) == []


def test_an_input_is_the_same_on_every_call() -> None:
    for name, target in TARGETS.items():
        inputs = [damaged(name, 1, number) for number in range(20)]
        assert inputs == [damaged(name, 1, number) for number in range(20)]
        assert any(content != target.files[file] for file, content in inputs)


def _crash(folder: Path) -> None:
    if (folder / "x.json").read_text() != "[1]":
        json.loads("{")


def _hang(folder: Path) -> None:
    text = (folder / "x.json").read_text()  # outside the loop: a file that is open when it ends would be a warning
    while text != "[1]":
        pass


def _shout(folder: Path) -> None:
    if (folder / "x.json").read_text() != "[1]":
        raise CheckpointError("no")


@pytest.mark.parametrize(("use", "what"), [(_crash, "JSONDecodeError"), (_hang, "Hang"), (_shout, None)])
def test_what_goes_wrong_is_found(
    use: targets.Use, what: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SECONDS", 0.05)
    (tmp_path / "x.json").write_text("[2]")
    found = worker.outcome(use, tmp_path)
    assert (found is None) if what is None else (found is not None and found["what"].startswith(what))


def test_memory_beyond_the_bound_is_found(tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    script.write_text(
        "from tests.fuzz import worker\n"
        "worker.bound_memory()\n"
        "bytearray(worker.ROOM // 2)\n"
        "print(worker.outcome(lambda _: bytearray(2 * worker.ROOM), None)['what'][:11])\n"
    )
    assert worker.python([str(script)]).stdout.decode().strip() == "MemoryError"
