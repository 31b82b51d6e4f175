from __future__ import annotations

import io
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgelm.progress import Progress, progress, watch_folder


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Makes standard error a terminal. Not a fixture: pytest sets its own standard error between setup and test."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stderr


def test_nothing_is_written_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(1 << 40, "Downloading", "B") as bar:
        bar.advance(1 << 39, "half")
    assert capsys.readouterr() == ("", "")


def test_there_may_be_no_standard_error_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with progress(1 << 40, "Downloading", "B") as bar:
        bar.advance()


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with progress(10, "Writing", "layer") as bar:
        for _ in range(10):
            bar.advance()
    assert terminal.getvalue() == ""


def test_many_bytes_show_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with progress(400_000_000, "Downloading tiny", "B"):
        shown = terminal.getvalue()
    assert "Downloading tiny" in shown
    assert "0.0/400.0 MB" in shown


def test_long_work_shows_with_its_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr("edgelm.progress._DELAY_SECONDS", 0.0)
    with progress(4, "Writing [int4]", "layer") as bar:
        bar.advance(3, "layers.2 [q_proj]")
    shown = terminal.getvalue()
    assert "Writing [int4]: layers.2 [q_proj]" in shown
    assert "3/4 layer" in shown


def test_an_unknown_total_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr("edgelm.progress._DELAY_SECONDS", 0.0)
    with progress(None, "Looking", "file") as bar:
        bar.advance(7)
    assert "7/? file" in terminal.getvalue()


def test_the_bar_is_taken_away_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with pytest.raises(ValueError, match="broken"), progress(400_000_000, "Downloading", "B") as bar:
        raise ValueError("broken")
    shown = terminal.getvalue()
    assert shown.endswith("\x1b[2K")  # the line is erased
    bar.advance(5)
    assert terminal.getvalue() == shown


def test_a_bar_inside_a_bar_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with progress(400_000_000, "Outer", "B") as outer, progress(400_000_000, "Inner", "B") as inner:
        inner.advance(1000)
        outer.advance(1000)
    assert "Outer" in terminal.getvalue()
    assert "Inner" not in terminal.getvalue()


def test_without_rich_there_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr("edgelm.progress._DELAY_SECONDS", 0.0)
    with progress(400_000_000, "Downloading", "B") as bar:
        bar.advance(1000)
    assert terminal.getvalue() == ""


def test_threads_may_advance_together(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with progress(400_000_000, "Downloading", "B") as bar:
        threads = [threading.Thread(target=lambda: [bar.advance(1_000_000) for _ in range(25)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "100.0/400.0 MB" in terminal.getvalue()


def test_a_watched_folder_reports_the_bytes_it_gains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelm.progress._POLL_SECONDS", 0.001)
    (tmp_path / "before").write_bytes(bytes(500))
    seen: list[float] = []
    enough = threading.Event()

    class Recorder:
        def advance(self, n: float = 1, detail: str | None = None) -> None:
            seen.append(n)
            if sum(seen) >= 30:
                enough.set()

    @contextmanager
    def start(total: float | None, label: str, unit: str = "") -> Generator[Progress]:
        assert (total, label, unit) == (30, "Downloading", "B")
        yield Recorder()

    with watch_folder(tmp_path, 30, "Downloading", start):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "part").write_bytes(bytes(10))
        (tmp_path / "more").write_bytes(bytes(20))
        (tmp_path / "link").symlink_to(tmp_path / "before")
        assert enough.wait(5)
    assert sum(seen) == 30


def test_a_watched_folder_need_not_exist_yet(tmp_path: Path) -> None:
    with watch_folder(tmp_path / "later", None, "Downloading"):
        pass
