"""What tests of real weights ask tests/downloads.py for; a test skips, with the reason, only when no package index has an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.downloads import Unavailable

Found = TypeVar("Found")


def available(fetch: Callable[[], Found]) -> Found:
    """What `fetch` returns; skips the test that asks when it cannot be had."""
    try:
        return fetch()
    except Unavailable as error:
        pytest.skip(str(error))
