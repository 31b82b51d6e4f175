"""When the text of one generation ends: ids in, text out that can no longer become part of a stop string."""

from __future__ import annotations

from typing import Literal, Protocol

from edgelm.generation_config import GenerationConfig


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
    first ends the text. `finish` is None until then. The loop counts tokens, and calls `finish_text` once, however it
    ends.
    """

    def __init__(self, config: GenerationConfig, stream: TextStream) -> None:
        self._eos = frozenset(config.eos_token_id)
        self._stops = config.stop
        self._stream = stream
        self._held = ""
        self._cut = False
        self.finish: Literal["stop"] | None = None

    def push(self, token_id: int) -> tuple[str, Literal["stop"] | None]:
        """The text that is certain after this token, and "stop" if generation ends with it."""
        if token_id in self._eos:
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
        # Every match ends in the new text: what was held back held no complete stop string.
        matches = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stops if stop in text]
        if matches:
            self._cut, self._held, self.finish = True, "", "stop"
            return text[: min(matches)[1]]
        open_end = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - open_end :]
        return text[: len(text) - open_end]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
