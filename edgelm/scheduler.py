"""Requests of any thread, answered by one batch of rows: prompts in and chosen tokens out, in the order of a queue.

A thread of its own does the work. It begins with the first request and ends when there is none left, so an idle model has no
thread. Between two decode steps it reads a chunk of the next prompts, so long prompts do not stop the answers under way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgelm.decode import PREFILL_CHUNK
from edgelm.errors import EdgeLMError, GenerationError
from edgelm.host_memory import FREED_MEMORY
from edgelm.prefix_cache import PrefixCache
from edgelm.protocols import DecoderRows, Logits
from edgelm.search import Batch, Choice, Draft, Search

CLOSED = "this model was closed; load it again"


class Job(Protocol):
    """A prompt, and the searches that begin after it. The scheduler calls its methods from its own thread."""

    @property
    def ids(self) -> Sequence[int]:
        """The prompt."""
        ...

    @property
    def adapter(self) -> str | None:
        """What its rows are computed with, which is one thing for all rows of a batch."""
        ...

    @property
    def searches(self) -> Sequence[Search]:
        """What begins after it."""
        ...

    @property
    def draft(self) -> Draft | None:
        """Guesses tokens of the only search, if there is one that takes one row."""
        ...

    @property
    def width(self) -> int:
        """Most rows that the searches take together."""
        ...

    @property
    def positions(self) -> int:
        """Most positions that a row of theirs takes."""
        ...

    def begin(self, cached_tokens: int) -> None:
        """The prompt leaves the queue, and so many of its tokens need not be fed."""
        ...

    def chosen(self, search: Search) -> None:
        """One of the searches has chosen."""
        ...

    def finish(self, *, cancelled: bool = False, error: BaseException | None = None) -> None:
        """All searches are over, or none of them goes on."""
        ...


class _Guarded:
    """A search of a job; what goes wrong in it ends its job and no other."""

    def __init__(self, search: Search, job: Job) -> None:
        self.job = job
        self._search = search
        self.error: BaseException | None = None

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        try:
            choice = self._search.accept(logits, log_probabilities)
            self.job.chosen(self._search)
        except Exception as error:
            self.error = error
            return Choice()
        return choice


@dataclass(eq=False)
class _Prefill:
    """The prompt that is being read, in a row of its own."""

    job: Job
    row: DecoderRows
    chunks: Iterator[Logits | None]


class Scheduler:
    """A queue of jobs in front of a batch. First come, first served: nobody is overtaken, whatever a job wants."""

    def __init__(
        self, new_row: Callable[[int, str | None], DecoderRows], limit: int, *, max_batch: int, prefixes: PrefixCache
    ) -> None:
        """Starts nothing yet.

        Args:
            new_row: makes a decoder of one row that takes at most so many positions, with an adapter or without.
            limit: most positions of any row.
            max_batch: most rows that are decoded together; a job that wants more of them runs alone.
            prefixes: where rows are kept that have answered.
        """
        self._new_row = new_row
        self._limit = limit
        self._max_batch = max_batch
        self._prefixes = prefixes
        # Shared with the threads that submit and cancel.
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._cancelled: set[Job] = set()
        self._worker: threading.Thread | None = None
        self._closed = False
        # Of the worker alone.
        self._prefill: _Prefill | None = None
        self._rows: DecoderRows | None = None
        self._batch: Batch[_Guarded] | None = None
        self._running: dict[Job, list[_Guarded]] = {}  # those of its searches that are not over

    def submit(self, jobs: Iterable[Job]) -> None:
        """Puts jobs at the end of the queue.

        Raises:
            GenerationError: it was closed.
        """
        with self._lock:
            if self._closed:
                raise GenerationError(CLOSED)
            self._waiting.extend(jobs)
            if self._worker is None and self._waiting:
                self._worker = threading.Thread(target=self._work, name="edgelm")
                self._worker.start()

    def cancel(self, job: Job) -> None:
        """Ends a job before the next decode step; nothing happens if it is over."""
        with self._lock:
            if self._worker is not None:
                self._cancelled.add(job)

    def close(self) -> None:
        """Ends all jobs, and waits until they are; no other is taken."""
        with self._lock:
            self._closed, worker = True, self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    def _work(self) -> None:
        try:
            while self._obey():
                self._read()
                self._step()
            FREED_MEMORY.give_back()
        except EdgeLMError as error:  # a device without room; those who wait are told, and the next job starts anew
            self._fail(error)
        except BaseException as error:  # ours, and nobody may wait for ever because of it
            self._fail(error)
            raise

    def _obey(self) -> bool:
        """Ends what was cancelled; false if nothing is left to do, and then this thread is nobody's worker any more."""
        with self._lock:
            running = [*self._running, *([self._prefill.job] if self._prefill else ())]
            if self._closed:
                self._cancelled.update(running, self._waiting)
            unread = [job for job in self._waiting if job in self._cancelled]
            ended = {job for job in running if job in self._cancelled}
            for job in unread:
                self._waiting.remove(job)
            self._cancelled.clear()
            busy = bool(running or self._waiting)
            if not busy:
                self._worker = None
        for job in unread:
            job.finish(cancelled=True)
        if self._prefill and self._prefill.job in ended:
            self._prefixes.put(self._prefill.row, self._prefill.job.adapter)
            self._prefill.job.finish(cancelled=True)
            self._prefill = None
        if ended:
            self._settle(ended)
        return busy

    def _read(self) -> None:
        """Feeds prompts from the head of the queue for which there are rows, a chunk of tokens or a little more."""
        fed = 0
        while fed < PREFILL_CHUNK and (job := self._prefill.job if self._prefill else self._next()):
            try:
                self._prefill = prefill = self._prefill or self._opened(job)
                before = len(prefill.row.ids[0])
                logits = next(prefill.chunks)
            except Exception as error:  # the row is lost, and nothing else
                self._prefill = None
                job.finish(error=error)
                continue
            fed += max(0, len(prefill.row.ids[0]) - before)
            if logits is not None:
                self._prefill = None
                self._begin(prefill, logits)

    def _next(self) -> Job | None:
        """Takes the job at the head of the queue, if there are rows for it."""
        taken, adapters = sum(job.width for job in self._running), {job.adapter for job in self._running}
        with self._lock:
            if not self._waiting:
                return None
            job = self._waiting[0]
            if taken and (taken + job.width > self._max_batch or job.adapter not in adapters):
                return None
            return self._waiting.popleft()

    def _opened(self, job: Job) -> _Prefill:
        """A row for a job's prompt, which holds as much of it as is known."""
        row = self._prefixes.take(job.ids, job.adapter, self._rows)
        if row is None:
            row = self._new_row(job.positions, job.adapter)
        else:
            row.allow(self._limit)  # what was gone on from once is likely to be again, so its room doubles as it grows
        cached = len(row.ids[0])
        job.begin(cached)
        return _Prefill(job, row, row.prefill_chunks(0, job.ids[cached:]))

    def _begin(self, prefill: _Prefill, logits: Logits) -> None:
        """A prompt was read: its searches join the batch."""
        job, number = prefill.job, 0
        self._running[job] = [_Guarded(search, job) for search in job.searches]
        if self._rows is None or self._batch is None:
            self._rows, self._batch = prefill.row, Batch(prefill.row)
        else:
            number = self._rows.append(prefill.row)
        for search in self._running[job]:
            self._batch.begin(search, number, logits, job.draft)
        self._settle()

    def _step(self) -> None:
        """One decode step of all that is under way."""
        if self._batch is None:
            return
        try:
            for _ in self._batch.step():
                pass
        except Exception as error:  # the program failed, and nobody knows what the rows hold now
            failed, self._running = self._running, {}
            self._rows = self._batch = None
            for job in failed:
                job.finish(error=error)
            return
        self._settle()

    def _settle(self, cancelled: Collection[Job] = ()) -> None:
        """Takes out of the batch what is over, cancelled or has failed; a job's last row is kept for prompts to come."""
        if self._batch is None or self._rows is None:
            return
        errors = {search.job: search.error for left in self._running.values() for search in left if search.error}
        gone = [search for job, left in self._running.items() if job in errors or job in cancelled for search in left]
        for search, row in self._batch.leave(gone):
            job = search.job
            self._running[job].remove(search)
            if not self._running[job]:
                if self._prefixes.limit:
                    self._prefixes.put(self._rows.detach(row), job.adapter)
                del self._running[job]
                job.finish(cancelled=job in cancelled, error=errors.get(job))
        if not self._batch:
            self._rows = self._batch = None

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            jobs = [*self._running, *([self._prefill.job] if self._prefill else ()), *self._waiting]
            self._worker = self._prefill = self._rows = self._batch = None
            self._running.clear()
            self._waiting.clear()
        for job in jobs:
            job.finish(error=error)
