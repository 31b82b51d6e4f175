"""What all errors of edgelm have in common."""

from __future__ import annotations

import pytest

from edgelm import errors
from edgelm.errors import EdgeLMError, OutOfDeviceMemory, WrongShape

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgeLMError)]
KINDS.remove(OutOfDeviceMemory)  # it writes its own message


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_terminal_would_obey_is_escaped(kind: type[EdgeLMError]) -> None:
    assert str(kind("a\x1b[2J\x00\ud800\u202eb\nc \u00e9")) == "a\\x1b[2J\\x00\\ud800\\u202eb\nc \u00e9"


def test_an_endless_message_is_cut() -> None:
    message = str(WrongShape("x" * 20_000))
    assert message == "x" * 8000 + " ... and 12,000 more characters"
    assert str(WrongShape("x" * 8000)) == "x" * 8000
