"""edgelm chat, piped and on a terminal."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgelm.cli import cli
from edgelm.cli.chat import turns
from edgelm.text_generation import DecoderModel

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")

SHORT = ("--max-new-tokens", "6", "--temperature", "0")
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0}


def chat(package: Path, typed: str, *arguments: object) -> Result:
    return CliRunner().invoke(cli, ["chat", str(package), *SHORT, *map(str, arguments)], input=typed)


def answers(model: DecoderModel, *texts: str, system: str | None = None) -> list[str]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for text in texts:
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": model.chat(messages, **GREEDY).text})
    return [message["content"] for message in messages if message["role"] == "assistant"]


def test_each_line_is_a_turn_and_only_answers_go_to_standard_output(package: Path, model: DecoderModel) -> None:
    result = chat(package, "Hi\n\nand now?\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == "".join(f"{text}\n" for text in answers(model, "Hi", "and now?"))
    assert set(result.stderr.splitlines()) == {
        "(cut off: max_new_tokens is reached, or the context is full; see /set and /stats)"
    }


def test_system_message_and_reset(package: Path, model: DecoderModel) -> None:
    result = chat(package, "one\n/reset\n/system Be kind\n/system\nHi\n/reset\nHi\n", "--system", "Be brief")
    brief, kind = answers(model, "one", system="Be brief"), answers(model, "Hi", system="Be kind")
    assert result.stdout == "".join(f"{text}\n" for text in [*brief, *kind, *kind])
    assert "Be kind" in result.stderr


def test_a_chat_that_outgrows_the_context_says_what_is_no_longer_read(package: Path) -> None:
    result = chat(package, "one\ntwo\nthree\nfour\nfive\nsix\n", "--max-length", 64)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 6
    assert "messages are no longer read; see --max-length)" in result.stderr


def test_a_text_of_several_lines(package: Path, model: DecoderModel) -> None:
    result = chat(package, 'one\\\ntwo\n/reset\n"""\none\n\ntwo\n"""\n')
    assert result.stdout == "".join(f"{answers(model, text)[0]}\n" for text in ("one\ntwo", "one\n\ntwo"))


def test_lines_become_turns() -> None:
    for lines, texts in (
        (["a", "", " b "], ["a", "b"]),
        (["a\\", "b\\", "c", "d"], ["a\nb\nc", "d"]),
        (['"""', "a\\", "", "b", '"""', "c"], ["a\\\n\nb", "c"]),
        (['"""', "never closed"], ["never closed"]),
        (["ends in a backslash\\"], ["ends in a backslash"]),
        (['"""', '"""'], []),
    ):
        assert list(turns(iter(lines))) == texts


def test_a_chat_is_saved_and_goes_on(package: Path, model: DecoderModel, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    first = chat(
        package, f"Hi\n/set repetition_penalty 1.0\n/save {file}\n/exit\nnever asked\n", "--system", "Be brief"
    )
    assert first.stdout.count("\n") == 1 + answers(model, "Hi", system="Be brief")[0].count("\n")
    assert "(2 messages written)" in first.stderr
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert saved["settings"] == {**GREEDY, "temperature": 0.0, "repetition_penalty": 1.0}
    second = CliRunner().invoke(cli, ["chat", str(package)], input=f"/load {file}\nand now?\n")
    assert second.stdout == answers(model, "Hi", "and now?", system="Be brief")[1] + "\n"


def test_settings_are_shown_and_changed(package: Path, model: DecoderModel) -> None:
    result = chat(package, "/set max_new_tokens 3\n/set\nHi\n/set max_new_tokens default\n/set max_new_tokens\n")
    assert "max_new_tokens 3 (set)" in result.stderr
    assert "top_p 1.0" in result.stderr
    assert result.stderr.splitlines()[-1] == "max_new_tokens 256"
    assert result.stdout == model.chat([{"role": "user", "content": "Hi"}], max_new_tokens=3, temperature=0).text + "\n"


def test_statistics(package: Path) -> None:
    result = chat(package, "/stats\nHi\nand\n/stats\n")
    assert "(no answer yet)" in result.stderr
    assert "2 answers, 12 new tokens; the last one: " in result.stderr
    assert "TTFT" in result.stderr


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("/sytem x", "there is no command /sytem; /help lists them"),
        ("/set nonsense 1", "unknown generation option 'nonsense'"),
        ("/set nonsense", "there is no setting nonsense; /set lists them"),
        ("/set top_p 7", "option top_p is 7, but must be a number in [0, 1]"),
        ("/set regex (", None),
        ("/load", "/load needs a file: /load chat.json"),
        ("/load missing.json", "missing.json cannot be read"),
        ("x" * 3000, "/save and /reset, or start again with a larger --max-length"),
    ],
)
def test_an_error_is_one_line_and_the_chat_goes_on(
    package: Path, model: DecoderModel, typed: str, message: str | None
) -> None:
    result = chat(package, f"{typed}\n/set regex default\nHi\n", "--max-length", "100")
    assert result.exit_code == 0
    assert result.stdout == answers(model, "Hi")[0] + "\n"
    if message is not None:
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("edgelm: ")]
        assert message in line


def test_help_lists_every_command(package: Path) -> None:
    text = chat(package, "/help\n").stderr
    for name in ("/system", "/reset", "/save", "/load", "/stats", "/set", "/exit", "Ctrl-C"):
        assert name in text


def test_wrong_options_are_told_before_the_first_turn(package: Path) -> None:
    result = CliRunner().invoke(cli, ["chat", str(package), "--top-p", "7"], input="Hi\n")
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_package_without_a_chat_template_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelm.text_generation.ChatTemplate.from_folder", lambda *_: None)
    result = chat(package, "Hi\n")
    assert result.exit_code == 1
    assert "has no chat template; use edgelm run --raw" in result.stderr


class Terminal:
    """`edgelm chat` on the other end of a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.process, self._file = pty.fork()
        if not self.process:  # pragma: no cover  # the child
            os.execv(sys.executable, [sys.executable, "-c", "from edgelm.cli import main; main()", "chat", *arguments])
        self.shown = ""

    def until(self, text: str, again: str = "") -> str:
        """Waits for a text, and returns what was shown up to its end; types `again` every two seconds."""
        begun, typed = time.monotonic(), 0
        while text not in self.shown:
            waited = time.monotonic() - begun
            assert waited < 60, self.shown
            if waited // 2 > typed:
                typed += 1
                self.type(again)
            if select.select([self._file], [], [], 1)[0]:
                try:
                    self.shown += os.read(self._file, 65536).decode("utf-8", "replace")
                except OSError:  # the other end is closed
                    assert text in self.shown, self.shown
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def close(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


@pytest.fixture
def terminal(package: Path) -> Iterator[Terminal]:
    opened = Terminal(str(package), "--max-new-tokens", "600", "--regex", "a{600}", "--threads", "1")
    yield opened
    try:
        os.kill(opened.process, signal.SIGKILL)
        os.waitpid(opened.process, 0)
    except (ChildProcessError, ProcessLookupError):
        pass


def test_on_a_terminal_an_interrupt_stops_the_answer_and_not_the_chat(terminal: Terminal, tmp_path: Path) -> None:
    assert "/help lists the commands" in terminal.until("> ")
    # At the prompt there is nothing to stop. What comes just before readline waits is only noticed with the next key.
    terminal.type("\x03")
    terminal.until("(Ctrl-D or /exit leaves)", again="\x03")
    terminal.until("> ")
    terminal.type("Hi\n")
    terminal.until("Hi\r\n")
    terminal.until("a")  # the answer begins
    terminal.type("\x03")
    terminal.until("(stopped)")
    terminal.until("> ")
    terminal.type(f"/save {tmp_path}/chat.json\n")
    terminal.until("messages written)")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.close() == 0
    saved = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"]
    assert 0 < len(saved["messages"][1]["content"]) < 600
