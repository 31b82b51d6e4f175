"""A conversation that outgrows the context: messages in, the same without the oldest turns out.

What is left is read as a chat of its own, from position 0. System message and the template's first tokens stay in front, which
most of the attention rests on (Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"), and no position
is skipped, so an answer is exactly the one to the shorter chat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Any

Message = Mapping[str, Any]


def recent_turns(
    messages: Sequence[Message], length_of: Callable[[Sequence[Message]], int], room: int
) -> list[Message]:
    """System messages at the beginning, and the latest turns that fit with them, the last one in any case.

    A turn begins with a message of the user. Once a chat is too long, it is cut to half the room, and the next cut comes when
    that is used up again: chats that go on share their beginning, which is then in the prefix cache, and not every turn reads
    all anew. Where the cuts are follows from the messages alone.

    Args:
        messages: a conversation.
        length_of: how many tokens a conversation becomes.
        room: how many it may.
    """
    if length_of(messages) <= room:
        return list(messages)
    head = list(takewhile(lambda message: message.get("role") == "system", messages))
    rest = messages[len(head) :]
    begins = [0, *(i for i, message in enumerate(rest) if i and message.get("role") == "user"), len(rest)]
    turns = [list(rest[begin:end]) for begin, end in pairwise(begins)]
    if len(turns) < 2:
        return list(messages)
    sizes = [length_of([*head, *turn]) for turn in turns]
    shared = sizes[0] + sizes[1] - length_of(_joined(head, turns[:2]))  # what each of them counts for the head
    first = 0
    for last in range(len(turns)):
        if _total(sizes[first : last + 1], shared) > room:
            while first < last and _total(sizes[first : last + 1], shared) > room // 2:
                first += 1
    while first < len(turns) - 1 and length_of(_joined(head, turns[first:])) > room:
        first += 1
    return _joined(head, turns[first:])


def _total(sizes: Sequence[int], shared: int) -> int:
    return sum(sizes) - shared * (len(sizes) - 1)


def _joined(head: Sequence[Message], turns: Sequence[Sequence[Message]]) -> list[Message]:
    return [*head, *(message for turn in turns for message in turn)]
