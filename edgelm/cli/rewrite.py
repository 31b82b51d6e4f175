"""The rewriting half of `edgelm run`: texts in, the texts that belong to them out, in their order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import click

from edgelm.cli.outputs import as_plain, open_output, to_json
from edgelm.generation import Generation
from edgelm.metrics import Metrics, peak_memory_mib
from edgelm.progress import progress
from edgelm.text_to_text import Seq2SeqModel

_BATCH = 16
_EMPTY = Generation("", [], "stop", Metrics(0, 0, 0, None, None, None, None, None))


def rewrite(
    model: Seq2SeqModel,
    texts: Iterable[str],
    options: Mapping[str, Any],
    output: Path | None,
    *,
    as_json: bool,
    stats: bool,
) -> None:
    """Prints, or writes to a file, what the model makes of each text. An empty text stays empty, so lines stay in line."""
    settings = dict(options)
    size = settings.pop("batch_size", _BATCH)
    if size < 1:
        raise click.UsageError(f"--batch-size {size} is below 1")
    inputs, begun, new_tokens = list(texts), time.perf_counter(), 0
    with (
        nullcontext() if output is None else open_output(output, "text", len(inputs)) as sink,
        progress(len(inputs), "Writing", "text") as bar,
    ):
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            asked = [text for text in part if text]
            found = iter(model.generate(asked, **settings) if asked else [])
            results = [next(found) if text else None for text in part]
            records = [_record(text, result) for text, result in zip(part, results, strict=True)]
            new_tokens += sum(best.metrics.new_tokens for result in results for best in _best(result))
            if sink is not None:
                sink.write(records)
            else:
                for record, result in zip(records, results, strict=True):
                    click.echo(to_json(record) if as_json else "\n".join(one.text for one in _all(result)))
            bar.advance(len(part))
    if stats:
        click.echo(_statistics(len(inputs), new_tokens, time.perf_counter() - begun), err=True)


def _all(result: Any) -> list[Generation]:
    """The results of one input; an empty text for an empty input."""
    if result is None:
        return [_EMPTY]
    return cast("list[Generation]", result) if isinstance(result, list) else [result]


def _best(result: Any) -> list[Generation]:
    return [] if result is None else _all(result)[:1]


def _record(text: str, result: Any) -> dict[str, Any]:
    values = [as_plain(one) for one in _all(result)]
    return {"input": text, **values[0]} if not isinstance(result, list) else {"input": text, "results": values}


def _statistics(count: int, new_tokens: int, seconds: float) -> str:
    memory = peak_memory_mib()
    shown = "-" if memory is None else f"{memory:,.1f}"
    return (
        f"{count} texts, {new_tokens:,} new tokens in {seconds:,.2f} s, {new_tokens / max(seconds, 1e-9):,.1f} tokens/s; "
        f"peak memory {shown} MiB"
    )
