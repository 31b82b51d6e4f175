"""Progress of long work on standard error: a total and steps go in, a bar on a terminal comes out."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    import rich.progress

_DELAY_SECONDS = 2.0
_LARGE_BYTES = 256 << 20  # sure to take its time: the bar comes at once
_POLL_SECONDS = 0.2


class Progress(Protocol):
    """What the body of a `with progress(...)` block may do."""

    def advance(self, n: float = 1, detail: str | None = None) -> None:
        """Counts `n` more units as done; `detail` says what is being worked on. Any thread may call it."""
        ...


class StartProgress(Protocol):
    """The shape of `progress`, for functions that let their caller replace it."""

    def __call__(self, total: float | None, label: str, unit: str = "") -> AbstractContextManager[Progress]:
        """Opens a bar."""
        ...


@contextmanager
def progress(total: float | None, label: str, unit: str = "") -> Generator[Progress]:
    """Shows a bar on a terminal's standard error for work of over two seconds, or at once for very many bytes.

    Args:
        total: how many units there are; None when nobody knows.
        label: what is being done, such as "Downloading x".
        unit: one unit's name; "B" counts bytes and shows them as MB with the speed.
    """
    bar = _Bar(total, label, unit)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def watch_folder(folder: Path, total: float | None, label: str, start: StartProgress = progress) -> Generator[None]:
    """Shows how many bytes `folder` gains while the body runs, for work that reports nothing itself."""
    begun, stop = _size_of(folder), threading.Event()
    with start(total, label, "B") as bar:

        def poll() -> None:
            seen = begun
            while not stop.wait(_POLL_SECONDS):
                size = _size_of(folder)
                # Never backwards: a file that is moved out at the end was downloaded all the same.
                if size > seen:
                    bar.advance(size - seen)
                    seen = size

        watcher = threading.Thread(target=poll, name="edgelm-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


class _Bar:
    """A bar of the `rich` library, built when the work turns out to be long; silent where `rich` is not installed.

    A terminal has room for one: work within work that shows a bar is part of that bar.
    """

    _opened: ClassVar[list[_Bar]] = []

    def __init__(self, total: float | None, label: str, unit: str) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done = 0.0
        self._lock = threading.Lock()
        self._display: rich.progress.Progress | None = None
        self._silent = not _on_terminal()
        self._begun = time.monotonic()
        self._opened.append(self)
        if unit == "B" and total is not None and total >= _LARGE_BYTES:
            self._show()

    def advance(self, n: float = 1, detail: str | None = None) -> None:
        """Counts `n` more units as done."""
        if self._silent:
            return
        with self._lock:
            self._done += n
            if self._display is None and time.monotonic() - self._begun >= _DELAY_SECONDS:
                self._show()
            if self._display is not None:
                described = self._label if detail is None else f"{self._label}: {detail}"
                self._display.update(self._display.task_ids[0], completed=self._done, description=described)

    def close(self) -> None:
        """Takes the bar away, so that the terminal shows what was printed and no rests."""
        with self._lock:
            self._silent = True
            self._opened.remove(self)
            if self._display is not None:
                self._display.stop()

    def _show(self) -> None:
        if self._silent or self._opened[0] is not self:
            return
        try:
            from rich.errors import LiveError
        except ImportError:  # it comes with the export extra
            self._silent = True
            return
        try:
            self._display = _start_display(self._total, self._label, self._unit)
        except LiveError:  # rich before 14.1 draws one bar at a time, and another one is up
            self._silent = True


def _start_display(total: float | None, label: str, unit: str) -> rich.progress.Progress:
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column

    def fixed() -> Column:
        return Column(no_wrap=True)

    # On a narrow terminal the label is cut; the figures never are.
    text = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    counted: list[bars.ProgressColumn] = [
        bars.MofNCompleteColumn(table_column=fixed()),
        bars.TextColumn(unit, markup=False, table_column=fixed()),
    ]
    if unit == "B":
        counted = [bars.DownloadColumn(table_column=fixed()), bars.TransferSpeedColumn(table_column=fixed())]
    display = bars.Progress(
        bars.TextColumn("{task.description}", markup=False, table_column=text),
        bars.BarColumn(bar_width=20),
        *counted,
        bars.TimeRemainingColumn(table_column=fixed()),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
    display.add_task(label, total=total)
    display.start()
    return display


def _on_terminal() -> bool:
    # There is no sys.stderr under pythonw.
    return sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]


def _size_of(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            # A file may be gone between listing and asking.
            with suppress(OSError):
                found = os.lstat(os.path.join(root, name))
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total
