"""edgelm chat PACKAGE: a conversation, typed or piped."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from edgelm.api import load
from edgelm.cli.generate import describe
from edgelm.cli.inputs import input_texts
from edgelm.cli.options import generation_options, given_options, load_options
from edgelm.conversation import Conversation
from edgelm.errors import ContextOverflow, EdgeLMError, GenerationError
from edgelm.generation_config import option_fields
from edgelm.text_generation import DecoderModel

_HELP = """\
/system TEXT       say how the model should answer; without TEXT, what was said
/reset             forget the conversation
/save FILE         write the conversation and its settings
/load FILE         go on with one that was written
/stats             speed and memory so far
/set NAME VALUE    change a setting, back with VALUE default; without NAME, show them
/help              this list
/exit              leave, as does the end of input (Ctrl-D)
A line that ends in a backslash goes on in the next one, and so does all between two lines of \"\"\".
Ctrl-C stops an answer and keeps the conversation."""


@click.command()
@click.argument("package")
@generation_options
@click.option("--system", help="System message that precedes the conversation.")
@load_options
def command(
    package: str,
    system: str | None,
    device: str,
    threads: int | None,
    max_length: int | None,
    draft_model: str | None,
    provider_options: tuple[tuple[str, str], ...],
    **options: Any,
) -> None:
    """Talk to the decoder in PACKAGE, a folder or a name from `edgelm models`.

    On a terminal /help lists what can be typed besides text. Without one each line of standard input is a turn, and
    nothing but answers goes to standard output.
    """
    model = load(package, device, threads, max_length, draft_model=draft_model, provider_options=dict(provider_options))
    if not isinstance(model, DecoderModel):
        raise click.UsageError(f"{package} does not generate text from a conversation; use edgelm run")
    if model.chat_template is None:
        raise GenerationError(f"{model.package.path} has no chat template; use edgelm run --raw")
    _Session(Conversation(model, system, given_options(options))).run()


class _Session:
    """Reads turns and commands, and shows what comes of them. Answers go to standard output, all else to standard error."""

    def __init__(self, conversation: Conversation) -> None:
        self._chat = conversation
        self._commands: dict[str, Callable[[str], None]] = {
            "/system": self._system,
            "/reset": self._reset,
            "/save": self._save,
            "/load": self._load,
            "/stats": self._stats,
            "/set": self._set,
            "/help": lambda _: _note(_HELP),
        }

    def run(self) -> None:
        """Until the input ends."""
        for text in turns(_typed_lines() if sys.stdin.isatty() else input_texts((), blank=True)):
            try:
                if text in ("/exit", "/quit"):
                    return
                self._handle(text)
            except EdgeLMError as error:
                click.secho(f"edgelm: {error}", fg="red", err=True)

    def _handle(self, text: str) -> None:
        if not text.startswith("/"):
            self._answer(text)
            return
        name, _, rest = text.partition(" ")
        if name not in self._commands:
            raise GenerationError(f"there is no command {name}; /help lists them")
        self._commands[name](rest.strip())

    def _answer(self, text: str) -> None:
        chunks, before = self._chat.ask(text), self._chat.unread
        reason = None
        try:
            for chunk in chunks:
                click.echo(chunk.text, nl=False)
                sys.stdout.flush()
                reason = chunk.finish_reason or reason
        except KeyboardInterrupt:
            reason = "interrupt"
        except ContextOverflow as error:
            raise ContextOverflow(
                f"{error}. The last turn was not taken: /save and /reset, or start again with a larger --max-length"
            ) from error
        finally:
            chunks.close()
        click.echo()
        if self._chat.unread > before:
            _note(f"(the chat is long: its first {self._chat.unread} messages are no longer read; see --max-length)")
        if reason == "length":
            _note("(cut off: max_new_tokens is reached, or the context is full; see /set and /stats)")
        elif reason == "interrupt":
            _note("(stopped)")

    def _system(self, text: str) -> None:
        if text:
            self._chat.system = text
        else:
            _note("(no system message)" if self._chat.system is None else self._chat.system)

    def _reset(self, _: str) -> None:
        self._chat.reset()
        _note("(forgotten)")

    def _save(self, name: str) -> None:
        self._chat.save(_file("/save", name))
        _note(f"({len(self._chat.messages)} messages written)")

    def _load(self, name: str) -> None:
        self._chat.load(_file("/load", name))
        _note(f"({len(self._chat.messages)} messages read)")

    def _stats(self, _: str) -> None:
        metrics = self._chat.metrics
        if not metrics:
            _note("(no answer yet)")
            return
        new = sum(one.new_tokens for one in metrics)
        _note(f"{len(metrics)} answers, {new:,} new tokens; the last one: {describe(metrics[-1])}")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if name and value:
            self._chat.set(name, value.strip())
        names = [name] if name else [option.name for option in option_fields()]
        changed = self._chat.settings
        for one in names:
            if one not in {option.name for option in option_fields()}:
                raise GenerationError(f"there is no setting {one}; /set lists them")
            _note(f"{one} {self._chat.value_of(one)}{' (set)' if one in changed else ''}")


def turns(lines: Iterator[str]) -> Iterator[str]:
    """Lines put together: what ends in a backslash goes on, and so does what stands between lines of \"\"\". None is blank."""
    parts: list[str] = []
    quoted = False
    for line in lines:
        if line.strip() == '"""':
            quoted = not quoted
        elif not quoted and line.endswith("\\"):
            parts.append(line[:-1])
            continue
        else:
            parts.append(line)
        if not quoted:
            text, parts = "\n".join(parts).strip(), []
            if text:
                yield text
    if parts and (text := "\n".join(parts).strip()):
        yield text


def _typed_lines() -> Iterator[str]:
    """Lines from a terminal, with history and editing where there is readline."""
    with suppress(ImportError):  # Windows has none
        importlib.import_module("readline")
    _note('(/help lists the commands, """ begins and ends a text of several lines, Ctrl-D leaves)')
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            _note("\n(Ctrl-D or /exit leaves)")
        except EOFError:
            click.echo()
            return


def _file(name: str, text: str) -> Path:
    if not text:
        raise GenerationError(f"{name} needs a file: {name} chat.json")
    return Path(text).expanduser()


def _note(text: str) -> None:
    click.secho(text, dim=True, err=True)
