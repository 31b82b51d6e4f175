"""GenerationHandle: a request that was submitted. What is generated comes from the scheduler's thread to any other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from edgelm.generation import Chunk, Generation, Reply
from edgelm.search import Search


class Delivery:
    """A request as the scheduler sees it (scheduler.Job), and what it has brought so far.

    Attributes:
        chunks: pieces of a text as they are made, and None when there are no more.
        over: set when it is.
        error: what ended it, if not the request itself.
    """

    def __init__(self, reply: Reply, adapter: str | None = None) -> None:
        self.reply = reply
        self.adapter = adapter
        self.chunks: SimpleQueue[Chunk | None] = SimpleQueue()
        self.over = threading.Event()
        self.error: BaseException | None = None
        self.ids: Sequence[int] = reply.ids
        self.searches: Sequence[Search] = reply.searches
        self.draft = reply.draft
        self.width = reply.width
        self.positions = reply.positions

    def begin(self, cached_tokens: int) -> None:
        """The prompt leaves the queue."""
        self.reply.begin(cached_tokens)

    def chosen(self, search: Search) -> None:
        """There may be a new piece."""
        if self.width == 1:
            self.chunks.put(self.reply.chunk)

    def finish(self, *, cancelled: bool = False, error: BaseException | None = None) -> None:
        """It is over."""
        self.error, before = error, self.reply.chunk
        if cancelled:
            self.reply.cancel()
            if self.reply.chunk is not before:
                self.chunks.put(self.reply.chunk)
        self.over.set()
        self.chunks.put(None)


class GenerationHandle:
    """A request under way, as `submit` returns it: wait for its result, read it piece by piece, or cancel it.

    Iterating gives the pieces of a text as they are made, once; a request with beams or several results has none.
    """

    def __init__(self, delivery: Delivery, cancel: Callable[[Delivery], None]) -> None:
        """Takes what was submitted, and what cancels it."""
        self._delivery = delivery
        self._cancel = cancel

    def done(self) -> bool:
        """Whether it is over, in whatever way."""
        return self._delivery.over.is_set()

    def cancel(self) -> None:
        """Ends it before the next decode step, from any thread; what there is by then becomes its result."""
        self._cancel(self._delivery)

    def result(self, timeout: float | None = None) -> Any:
        """Waits for what `generate` would return: a Generation, or a list of them if num_return_sequences is above 1.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds; it goes on.
            GenerationError: the logits were damaged, or the settings forbid every token.
        """
        results = self.results(timeout)
        return results if self._delivery.reply.several else results[0]

    def results(self, timeout: float | None = None) -> list[Generation]:
        """The same, as a list in any case."""
        if not self._delivery.over.wait(timeout):
            raise TimeoutError(f"the generation is not over after {timeout} seconds; wait longer, or cancel it")
        self._check()
        return self._delivery.reply.results()

    def __iter__(self) -> Iterator[Chunk]:
        """Pieces of the text; the last one carries finish_reason, token_ids and metrics."""
        while (chunk := self._delivery.chunks.get()) is not None:
            yield chunk
        self._check()

    def _check(self) -> None:
        if self._delivery.error is not None:
            raise self._delivery.error
