"""edgelm run --batch: a file of requests in, a file of answers out, in the same order; interrupted, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import click

from edgelm.cli.outputs import as_plain, to_json
from edgelm.errors import EdgeLMError, GenerationError, InvalidOption
from edgelm.manifest import MANIFEST
from edgelm.progress import progress
from edgelm.text_generation import DecoderModel

_ROWS = 8
_MOST_SHOWN = 10
_CHAT = ("template", "tools", "tool_choice", "response_format")


@dataclass(frozen=True)
class Line:
    """One request.

    Attributes:
        number: of the line in its file, from 1.
        key: the request's own "id", or None.
        messages: the conversation, or None where there is a prompt.
        prompt: the text to complete, or None.
        options: for `generate`.
        chat: what `chat` takes besides.
        digest: of all that decides the answer.
    """

    number: int
    key: Any
    messages: list[Any] | None
    prompt: str | None
    options: Mapping[str, Any]
    chat: Mapping[str, Any]
    digest: str


def run_batch(model: DecoderModel, source: Path, output: Path, options: Mapping[str, Any], *, rows: int | None) -> None:
    """Answers every line of `source`, and adds a line to `output` for each.

    Args:
        model: answers.
        source: JSON Lines: {"prompt"} or {"messages"}, and with them generation options, "id", or what `chat` takes.
        output: JSON Lines: {"line", "id", "digest"} and the fields of a Generation, or {"error"} for a line that fails.
        options: for lines that do not give their own.
        rows: most lines that run together.

    Raises:
        InvalidOption: lines that are no requests (all are named, and nothing is run), or a file that cannot be used.
        GenerationError: the output belongs to other requests.
    """
    if rows is not None and rows < 1:
        raise click.UsageError(f"--batch-size {rows} is below 1")
    if output.resolve() == source.resolve():
        raise InvalidOption(f"{output} holds the requests; choose another file for the answers")
    lines = _read(model, source, options)
    done = _resume(output, lines)
    try:
        file = output.open("a", encoding="utf-8")
    except OSError as error:
        raise InvalidOption(f"{output} cannot be written: {error.strerror}; choose another file with -o") from error
    with file, progress(len(lines), "Answering", "line") as bar:
        bar.advance(done)
        for part in _parts(lines[done:], rows or _ROWS):
            for record in _answers(model, part):
                file.write(to_json(record) + "\n")
            file.flush()
            bar.advance(len(part))


def _read(model: DecoderModel, source: Path, options: Mapping[str, Any]) -> list[Line]:
    """The requests of a file, checked as far as that is possible before they run."""
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{source} cannot be read ({error})") from error
    package = hashlib.sha256((model.package.path / MANIFEST).read_bytes()).hexdigest()
    lines: list[Line] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            lines.append(_line(model, number, line, options, package))
        except (EdgeLMError, ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
        raise InvalidOption(f"{source}: {'; '.join(problems[:_MOST_SHOWN])}{more}. Nothing was run: correct them first")
    return lines


def _line(model: DecoderModel, number: int, line: str, options: Mapping[str, Any], package: str) -> Line:
    value: Any = json.loads(line)
    if not isinstance(value, dict):
        raise InvalidOption("no JSON object")
    request = cast("dict[str, Any]", value)
    if ("prompt" in request) == ("messages" in request):
        raise InvalidOption('give either "prompt" or "messages"')
    own = {name: given for name, given in request.items() if name not in ("id", "prompt", "messages", *_CHAT)}
    used = {**options, **own}
    model.defaults.replace(**used)
    prompt, messages = request.get("prompt"), request.get("messages")
    chat = {name: request[name] for name in _CHAT if name in request}
    if messages is None and (not isinstance(prompt, str) or not prompt):
        raise InvalidOption('"prompt" must be a text that is not empty')
    if messages is None and chat:
        raise InvalidOption(f"{', '.join(chat)}: only with messages")
    if messages is not None:
        model.chat_ids(messages, **(chat.get("template") or {}))
    decides = json.dumps([package, prompt, messages, used, chat], sort_keys=True)
    digest = hashlib.sha256(decides.encode()).hexdigest()[:16]
    return Line(number, request.get("id"), messages, prompt, used, chat, digest)


def _resume(output: Path, lines: Sequence[Line]) -> int:
    """How many lines of the output are complete; what an interrupt left of another one is cut off.

    Raises:
        GenerationError: they are not the answers to the first of these requests.
    """
    if not output.exists():
        return 0
    whole = output.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    found = kept.split(b"\n")[:-1]
    other = next((i for i, raw in enumerate(found) if i >= len(lines) or _digest(raw) != lines[i].digest), None)
    if other is not None:
        raise GenerationError(
            f"{output}: line {other + 1} is not the answer to that request (the file, the options or the package changed); "
            "choose another file with -o, or remove this one"
        )
    if len(kept) < len(whole):
        with output.open("r+b") as file:
            file.truncate(len(kept))
    return len(found)


def _digest(line: bytes) -> Any:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value).get("digest") if isinstance(value, dict) else None


def _parts(lines: Sequence[Line], rows: int) -> Iterator[list[Line]]:
    """Neighbours that can run together, `rows` at most."""
    for _, group in groupby(
        lines, key=lambda line: (json.dumps(line.options), json.dumps(line.chat), line.prompt is None)
    ):
        listed = list(group)
        yield from (listed[start : start + rows] for start in range(0, len(listed), rows))


def _answers(model: DecoderModel, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """What is written for each line. One that fails does not take the others with it."""
    first = lines[0]
    try:
        if first.messages is None:
            found: Any = model.generate([line.prompt or "" for line in lines], **first.options)
        else:
            found = model.chat([line.messages or [] for line in lines], **{**first.chat, **first.options})
    except EdgeLMError as error:
        if len(lines) == 1:
            return [{**_head(first), "error": str(error)}]
        return [record for line in lines for record in _answers(model, [line])]
    return [_record(line, result) for line, result in zip(lines, found, strict=True)]


def _record(line: Line, result: Any) -> dict[str, Any]:
    plain = as_plain(result)
    return {**_head(line), "results": plain} if isinstance(result, list) else {**_head(line), **plain}


def _head(line: Line) -> dict[str, Any]:
    return {"line": line.number, "id": line.key, "digest": line.digest}
