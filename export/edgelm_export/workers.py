"""Work on many pieces by several threads. NumPy and hashlib let go of the interpreter's lock while they are at it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TypeVar

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")

_AHEAD = 8  # pieces for each thread that are under way, so that threads have work while the caller reads or writes
_READ_BYTES = 1 << 20


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[_Piece], _Result], pieces: Iterable[_Piece]) -> Iterator[_Result]:
    """`map` on all processors. Pieces are fetched by the calling thread, a bounded number ahead of the results, which keep their order."""
    source = iter(pieces)
    first = list(islice(source, 2))
    if len(first) < 2 or threads() < 2:
        yield from map(work, first)
        yield from map(work, source)
        return
    pool = ThreadPoolExecutor(threads(), "edgelm-worker")
    try:
        waiting: deque[Future[_Result]] = deque(pool.submit(work, piece) for piece in first)
        for piece in source:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > _AHEAD * threads():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Digests:
    """SHA-256 of files, computed beside other work; in a `with` block, whose end stops what is not wanted any more."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files`: by the names that results go by."""
        self._files = files
        self._found: dict[str, str] = {}
        self._error: OSError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgelm-digests", daemon=True)

    def __enter__(self) -> Digests:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def result(self) -> dict[str, str]:
        """Hex digests by name, once they are there.

        Raises:
            OSError: a file cannot be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return dict(self._found)

    def _run(self) -> None:
        try:
            for name, file in self._files.items():
                self._found[name] = self._digest(file)
        except OSError as error:
            self._error = error

    def _digest(self, path: Path) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_READ_BYTES))
        with path.open("rb", buffering=0) as file:
            while (count := file.readinto(buffer)) and not self._stopped.is_set():
                digest.update(buffer[:count])
        return digest.hexdigest()
