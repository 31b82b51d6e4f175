"""Exports that are cut short: nothing half-written at the target, and the next export removes what a killed one left."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import edgelm
from edgelm_export.scratch import scratch_folder

# Runs the command and ends the process when the second tensor is written.
CUT = """
import os, sys, resource
from edgelm.cli import main
from edgelm_export.write import DataFile
add, calls = DataFile.add, []
def cut(self, *arguments):
    calls.append(1)
    if len(calls) == 2:
        {what}
    return add(self, *arguments)
DataFile.add = cut
main(sys.argv[1:])
"""


def _run(what: str, checkpoint: Path, target: Path) -> subprocess.CompletedProcess[str]:
    options = ["export", str(checkpoint), "-o", str(target), "--precision", "fp32", "--no-verify"]
    return subprocess.run(
        [sys.executable, "-c", CUT.format(what=what), *options], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 1), ("SIGKILL", -signal.SIGKILL)])
def test_a_signal_leaves_no_package(name: str, code: int, checkpoint: Path, tmp_path: Path) -> None:
    done = _run(f"import signal; os.kill(os.getpid(), signal.{name})", checkpoint, tmp_path / "out")
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "out").exists()
    left = list(tmp_path.iterdir())
    assert len(left) == (1 if name == "SIGKILL" else 0)
    edgelm.export(checkpoint, tmp_path / "out", precision="fp32", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_may_not_grow_is_a_full_disk(checkpoint: Path, tmp_path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    done = _run(limit, checkpoint, tmp_path / "out")
    assert done.returncode == 1
    assert "is full; nothing was left behind" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_folders_in_use_and_folders_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / ".x-abandoned").mkdir()
    (tmp_path / ".x-abandoned" / "file").write_text("1")
    with scratch_folder(tmp_path, ".x-") as first, scratch_folder(tmp_path, ".x-") as second:
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "other", first, second])
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]
