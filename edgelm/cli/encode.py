"""The encoding half of `edgelm run`: texts in; vectors, labels, entities, answers, predictions or a ranking out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from edgelm import tasks
from edgelm.cli.outputs import as_plain, open_output, to_json
from edgelm.errors import GenerationError
from edgelm.labels import Ranked
from edgelm.metrics import peak_memory_mib
from edgelm.progress import progress
from edgelm.text_encoding import EncoderModel

Result = dict[str, Any]

# Inputs that are held at a time, so that a file of any length can pass.
_CHUNK = 512


@dataclass(frozen=True)
class Report:
    """How one task is asked and shown.

    Attributes:
        key: what a result is called in JSON.
        ask: (model, texts, options) -> (text, result) pairs, one a text.
        line: (text, result) -> lines for people.
        options: names of the options it takes, beside batch_size.
        whole: the inputs belong together and must not be split into chunks.
    """

    key: str
    ask: Callable[[EncoderModel, list[str], dict[str, Any]], Iterable[tuple[str, Any]]]
    line: Callable[[str, Any], str]
    options: tuple[str, ...] = ()
    whole: bool = False


def encode(
    model: EncoderModel,
    texts: Iterable[str],
    options: Mapping[str, Any],
    output: Path | None,
    *,
    as_json: bool,
    stats: bool,
) -> None:
    """Prints, or writes to a file, what the model says about each text."""
    report = _REPORTS[model.package.manifest.task]
    _check_options(report, options, model.package.manifest.task)
    inputs, begun = list(texts), time.perf_counter()
    chunk = max(1, len(inputs)) if report.whole else _CHUNK
    with (
        nullcontext() if output is None else open_output(output, report.key, len(inputs)) as sink,
        progress(len(inputs), "Running", "text") as bar,
    ):
        for start in range(0, len(inputs), chunk):
            part = inputs[start : start + chunk]
            found = _asked(report, model, part, options, start)
            if sink is not None:
                sink.write([_record(text, report.key, result) for text, result in found])
            else:
                for text, result in found:
                    shown = _record(text, report.key, result)
                    click.echo(to_json(shown) if as_json else report.line(text, result))
            bar.advance(len(part))
    if stats:
        click.echo(_statistics(len(inputs), time.perf_counter() - begun), err=True)


def _asked(
    report: Report, model: EncoderModel, part: list[str], options: Mapping[str, Any], start: int
) -> Iterable[tuple[str, Any]]:
    """Results of some of the inputs; errors count within them, so they are told where these begin."""
    try:
        return report.ask(model, part, dict(options))
    except GenerationError as error:
        if not start:
            raise
        raise type(error)(f"among the inputs from number {start} on (the first is 0), {error}") from error


def _check_options(report: Report, options: Mapping[str, Any], task: str) -> None:
    known = {"batch_size", *report.options}
    wrong = sorted(set(options) - known)
    if wrong:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise click.UsageError(f"{flags}: not for a package exported for {task}")
    for name in ("question", "query"):
        if name in report.options and name not in options:
            raise click.UsageError(f"a package exported for {task} needs --{name}")


def _record(text: str, key: str, result: Any) -> Result:
    return {"input": text, key: as_plain(result)}


def _statistics(count: int, seconds: float) -> str:
    memory = peak_memory_mib()
    shown = "-" if memory is None else f"{memory:,.1f}"
    return f"{count} texts in {seconds:,.2f} s, {count / max(seconds, 1e-9):,.1f} texts/s; peak memory {shown} MiB"


def _each(method: str) -> Callable[[EncoderModel, list[str], dict[str, Any]], Iterable[tuple[str, Any]]]:
    """A method that takes a list of texts and gives one result for each."""

    def ask(model: EncoderModel, texts: list[str], options: dict[str, Any]) -> Iterable[tuple[str, Any]]:
        return zip(texts, getattr(model, method)(texts, **options), strict=True)

    return ask


def _answers(model: EncoderModel, texts: list[str], options: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    questions = [options.pop("question")] * len(texts)
    return zip(texts, model.answer(questions, texts, **options), strict=True)


def _ranked(model: EncoderModel, texts: list[str], options: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Best first, whatever the order of the inputs."""
    return [(texts[entry.index], entry) for entry in model.rerank(options.pop("query"), texts, **options)]


def _vectors(_: str, result: Any) -> str:
    """One line a vector."""
    return "\n".join(" ".join(f"{value:.6g}" for value in row) for row in np.atleast_2d(result))


def _fields(*names: str) -> Callable[[str, Any], str]:
    """One line an entry of the result, its fields apart by tabs; nothing for none."""

    def line(_: str, result: Any) -> str:
        return "\n".join("\t".join(_cell(getattr(entry, name)) for name in names) for entry in _flat(result))

    return line


def _ranked_line(text: str, entry: Ranked) -> str:
    return f"{_cell(entry.score)}\t{text}"


def _flat(result: Any) -> Iterable[Any]:
    """The entries of a result, be it one, a list, or a list of lists."""
    if not isinstance(result, list):
        yield result
        return
    for entry in cast("list[Any]", result):
        yield from _flat(entry)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


_SPANS = _fields("text", "label", "score", "start", "end")
_REPORTS: Mapping[str, Report] = {
    tasks.EMBEDDING: Report(
        "embedding", _each("encode"), _vectors, ("dimensions", "normalize", "prompt_name", "truncate")
    ),
    tasks.HIDDEN_STATES: Report("hidden_states", _each("hidden_states"), _vectors, ("truncate",)),
    tasks.SEQUENCE_CLASSIFICATION: Report(
        "labels", _each("classify"), _fields("label", "score"), ("top_k", "truncate")
    ),
    tasks.TOKEN_CLASSIFICATION: Report("entities", _each("classify_tokens"), _SPANS, ("aggregation", "truncate")),
    tasks.REPLACED_TOKEN_DETECTION: Report("entities", _each("classify_tokens"), _SPANS, ("truncate",)),
    tasks.QUESTION_ANSWERING: Report(
        "answers", _answers, _fields("text", "score", "start", "end"), ("question", "top_k", "no_answer")
    ),
    tasks.FILL_MASK: Report(
        "predictions", _each("fill_mask"), _fields("token", "score", "text"), ("top_k", "truncate")
    ),
    tasks.RERANKING: Report("rank", _ranked, _ranked_line, ("query", "top_k", "truncate"), whole=True),
}
