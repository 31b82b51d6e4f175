from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgelm
from edgelm.errors import InvalidOption
from edgelm_export import memory_bound
from edgelm_export.memory_bound import MemoryBound
from edgelm_export.sizes import read_size

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bound is Linux's")


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, which a limit outlives."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


EXPORT = """
import sys
from edgelm.cli import main
main(["export", sys.argv[1], "-o", sys.argv[2], "--precision", "fp32", "--max-ram", sys.argv[3], *sys.argv[4:]])
"""
PEAK = re.compile(r"peak ([\d,]+) MiB of memory")


def test_a_bound_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    done = run(EXPORT, checkpoint, tmp_path / "out", "400MB", "--no-verify")
    assert done.returncode == 0, done.stderr
    found = PEAK.search(done.stdout)
    assert found is not None
    assert int(found[1]) < 400e6 / 2**20


def test_what_cannot_be_kept_is_refused_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    done = run(EXPORT, checkpoint, tmp_path / "out", "60MB", "--no-verify")
    assert done.returncode == 1
    assert "--max-ram 60,000,000 bytes cannot be kept: this export needs about" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_verification_gives_way_to_the_bound(checkpoint: Path, tmp_path: Path) -> None:
    done = run(EXPORT, checkpoint, tmp_path / "out", "300MB")
    assert done.returncode == 0, done.stderr
    assert "quality not measured, skipped: the float graph needs" in done.stdout
    assert "more than --max-ram leaves" in done.stdout


GREEDY = """
import numpy as np
from edgelm.errors import InvalidOption
from edgelm_export.memory_bound import MemoryBound
try:
    with MemoryBound(300_000_000):
        np.ones(10**9)
except InvalidOption as error:
    print(error)
np.ones(10**8)  # nothing is limited behind the block
"""


def test_what_reaches_the_bound_is_one_clear_error() -> None:
    done = run(GREEDY)
    assert done.returncode == 0, done.stderr
    assert "--max-ram 300,000,000 bytes was reached and the export stopped; nothing was left behind" in done.stdout


def test_no_bound_limits_nothing() -> None:
    with MemoryBound(None) as bound:
        bound.check(1 << 60)
        assert bound.has_room(1 << 60)
        assert bound.left is None
        assert np.ones(1000).sum() == 1000


def test_other_systems_refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory_bound, "_STATUS", tmp_path / "absent")
    with pytest.raises(InvalidOption, match="--max-ram is kept by Linux, and this is another system; leave it out"):
        MemoryBound(1 << 30)


def test_a_bound_that_is_no_size(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="size 'much' is none; write bytes, or a number with KB, MB, GB"):
        edgelm.export(checkpoint, tmp_path / "out", max_ram="much")


@pytest.mark.parametrize(
    ("text", "size"),
    [(12, 12), ("12", 12), ("100MB", 10**8), ("95 MiB", 95 << 20), ("1.5gb", 1_500_000_000), ("2GiB", 2 << 30)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1TB", "1e3", "1 M B"])
def test_texts_that_are_no_sizes(text: str) -> None:
    with pytest.raises(InvalidOption, match="is none; write bytes"):
        read_size(text)
