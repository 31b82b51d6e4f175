"""The long run over every parser: 100,000 damaged files, each taken or refused in bounded time and memory."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS, TEMPLATES
from tests.fuzz.worker import fuzz
from tests.parity.reference import READS_ROPE_PARAMETERS

# A template takes five times as long as a file, most of it to compile.
TEMPLATE_INPUTS = 8_000
FILES = [name for name in TARGETS if name not in TEMPLATES]


@pytest.mark.skipif(not READS_ROPE_PARAMETERS, reason="once is enough: it has nothing to do with transformers")
@pytest.mark.parametrize(("names", "inputs"), [(FILES, 100_000 - TEMPLATE_INPUTS), (list(TEMPLATES), TEMPLATE_INPUTS)])
def test_damaged_files_are_taken_or_refused(names: list[str], inputs: int) -> None:
    assert fuzz(names, -(-inputs // len(names)), seed=0) == []
