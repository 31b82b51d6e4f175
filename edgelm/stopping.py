"""When one generation ends: ids in, text out that can no longer become part of a stop string, and the reason for the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from edgelm.generation_config import GenerationConfig

Reason = Literal["stop", "length", "time", "criterion"]


class TextStream(Protocol):
    """Ids to text, piece by piece; the pieces put together are the text of all ids."""

    def push(self, token_id: int, /) -> str:
        """The text that is certain now."""
        ...

    def finish(self) -> str:
        """The rest."""
        ...


class StopState:
    """Ends one generation at an end token or a stop string; neither is part of the text.

    What comes out does not depend on how the text is cut into tokens: of several stop strings the one that is complete
    first ends the text, of those complete together the longest. `finish` is None until then. `Limits` counts tokens and time; the
    loop calls `finish_text` once, however it ends.
    """

    def __init__(self, config: GenerationConfig, stream: TextStream) -> None:
        self._ends = frozenset(config.end_token_ids)
        self._stops = [_Search(stop) for stop in config.stop]
        self._stream = stream
        self._held = ""
        self._cut = False
        self.finish: Literal["stop"] | None = None

    def push(self, token_id: int) -> tuple[str, Literal["stop"] | None]:
        """The text that is certain after this token, and "stop" if generation ends with it."""
        if token_id in self._ends:
            self.finish = "stop"
            return "", self.finish
        text = self._advance(self._stream.push(token_id))
        return text, self.finish

    def finish_text(self) -> str:
        """The text held back until now; nothing once a stop string was met."""
        if self._cut:
            return ""
        text = self._advance(self._stream.finish())
        held, self._held = self._held, ""
        return text + held

    def _advance(self, new: str) -> str:
        """Take new text in, and let go of what no stop string can claim any more."""
        if not self._stops:
            return new
        text = self._held + new
        for place, character in enumerate(new, len(self._held) + 1):
            complete = [stop.length for stop in self._stops if stop.push(character)]
            if complete:
                self._cut, self._held, self.finish = True, "", "stop"
                return text[: place - max(complete)]
        certain = len(text) - max(stop.matched for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]


class Limits:
    """Ends one generation that no stop ends: by its length, its time, or the caller's own criteria."""

    def __init__(self, config: GenerationConfig, length: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Starts the clock; `length` is the most ids there may be, prompt included."""
        self._length, self._criteria, self._clock = length, config.stopping_criteria, clock
        self._until = None if config.max_time is None else clock() + config.max_time

    def reached(self, ids: Sequence[int], text: str) -> Reason | None:
        """Why generation ends after these ids, prompt included; `text` is what the last of them settled."""
        # Each criterion sees every token: they serve as callbacks too.
        told = [criterion(ids, text) for criterion in self._criteria]
        if len(ids) >= self._length:
            return "length"
        if self._until is not None and self._clock() >= self._until:
            return "time"
        return "criterion" if any(told) else None


class _Search:
    """Looks for one text in another that comes character by character (Knuth, Morris and Pratt).

    `matched` characters at the end of what came may be its beginning. What is known of the text itself grows only as far as it
    was matched, so that a long one costs nothing.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        # For each beginning of the text: how long its longest true end is that is a beginning too.
        self._shorter = [0]
        self.length = len(text)
        self.matched = 0

    def push(self, character: str) -> bool:
        """Take one more character; true if it completes the text, after which nothing may follow."""
        self.matched = self._next(self.matched, character)
        if len(self._shorter) < self.matched:
            self._shorter.append(self._next(self._shorter[-1], character))
        return self.matched == self.length

    def _next(self, matched: int, character: str) -> int:
        while matched and self._text[matched] != character:
            matched = self._shorter[matched - 1]
        return matched + (self._text[matched] == character)
