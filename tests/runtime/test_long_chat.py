"""Conversations that outgrow the context: what is dropped, when, and that nobody has to read all anew each turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.errors import ContextOverflow
from edgelm.long_chat import recent_turns

SYSTEM = {"role": "system", "content": "s"}


def user(number: int) -> dict[str, str]:
    return {"role": "user", "content": str(number)}


def assistant(number: int) -> dict[str, str]:
    return {"role": "assistant", "content": str(number)}


def turns(count: int) -> list[dict[str, str]]:
    """So many turns, the last one without an answer."""
    return [said for number in range(count) for said in (user(number), assistant(number))][:-1]


def ten_each(messages: Sequence[Mapping[str, Any]]) -> int:
    return 10 * len(messages)


def test_a_chat_that_fits_stays_as_it_is() -> None:
    assert recent_turns([SYSTEM, *turns(3)], ten_each, 60) == [SYSTEM, *turns(3)]


def test_the_oldest_turns_go_and_the_system_message_stays() -> None:
    found = recent_turns([SYSTEM, *turns(8)], ten_each, 100)
    assert found[0] == SYSTEM
    assert found[1]["role"] == "user"
    assert found[-1] == user(7)
    assert 3 <= len(found) <= 10


def test_the_last_turn_stays_in_any_case() -> None:
    assert recent_turns([SYSTEM, *turns(8)], ten_each, 5) == [SYSTEM, user(7)]
    assert recent_turns([user(0)], ten_each, 5) == [user(0)]


def test_cuts_are_rare_so_that_chats_share_their_beginning() -> None:
    starts = [recent_turns([SYSTEM, *turns(count)], ten_each, 200)[1]["content"] for count in range(1, 60)]
    assert len(set(starts)) < 15
    assert [int(start) for start in starts] == sorted(int(start) for start in starts)


def test_turns_of_several_messages_are_dropped_whole() -> None:
    call = [user(1), assistant(1), {"role": "tool", "content": "1"}, assistant(2)]
    assert recent_turns([*call, *call, user(3)], ten_each, 60) == [*call, user(3)]


def test_a_model_cuts_only_when_asked_and_answers(package: Path) -> None:
    model = edgelm.load(package, threads=1, max_length=200)
    messages: list[dict[str, str]] = [{"role": "system", "content": "be brief"}]
    cached: list[int] = []
    for number in range(12):
        messages.append({"role": "user", "content": f"what is {number}"})
        fitting = model.fit_chat(messages, max_new_tokens=10)
        done = model.chat(fitting, max_new_tokens=10, temperature=0, eos_token_id=())
        assert len(done.token_ids) == 10
        cached.append(done.metrics.cached_tokens)
        messages.append({"role": "assistant", "content": "x"})
    assert len(fitting) < len(messages) - 1
    assert fitting[0] == messages[0]
    assert fitting[-1] == messages[-2]
    assert sum(count > 60 for count in cached) >= 4
    with pytest.raises(ContextOverflow):
        model.chat(messages[:-1])
