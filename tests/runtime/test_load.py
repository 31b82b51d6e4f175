"""A few seconds of what `python -m tests.runtime.load` does for minutes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.runtime.load import hammer


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_threads_that_cancel_at_random_get_what_single_runs_give(package: Path) -> None:
    report = hammer(package, seconds=3)
    assert report.wrong == []
    assert report.counts["length"] > 5
    assert report.counts["cancelled"] > 0
