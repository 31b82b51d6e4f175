"""edgelm run PACKAGE: text in, text out as it is generated."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from edgelm.api import load
from edgelm.cli.options import generation_options, given_options
from edgelm.errors import GenerationError
from edgelm.metrics import Metrics
from edgelm.text_generation import Chunk


@click.command()
@click.argument("package")
@click.argument("inputs", nargs=-1)
@generation_options
@click.option("--system", help="System message that precedes each input.")
@click.option("--raw", is_flag=True, help="Complete the input as it stands, without the chat template.")
@click.option("--device", default="auto", show_default=True, help="auto, or an execution provider.")
@click.option("--threads", type=int, help="Threads inside an operator. [default: one a physical core]")
@click.option(
    "--max-length", type=int, help="Most tokens of prompt and answer together. [default: the package's context]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an input.")
@click.option("--stats", is_flag=True, help="Print speed and memory to standard error.")
def command(
    package: str,
    inputs: tuple[str, ...],
    system: str | None,
    raw: bool,
    device: str,
    threads: int | None,
    max_length: int | None,
    as_json: bool,
    stats: bool,
    **options: Any,
) -> None:
    """Run PACKAGE on each INPUT, or on each line of standard input.

    PACKAGE is a folder, or a name from `edgelm models`, which is exported at first use. A package with a chat template gets
    each input as a user message.
    """
    if raw and system is not None:
        raise click.UsageError("--system needs the chat template, which --raw leaves out")
    model = load(package, device, threads, max_length)
    if not raw and model.chat_template is None:
        raw = True
        if system is not None:
            raise GenerationError(f"{package} has no chat template, so --system cannot be used")
    given = given_options(options)
    for text in inputs or _lines():
        chunks = model.stream(text, **given) if raw else model.stream_chat(_messages(text, system), **given)
        last = _print_json(text, chunks) if as_json else _print_text(chunks)
        if stats and last is not None:
            click.echo(describe(last), err=True)


def _messages(text: str, system: str | None) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": text}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def _lines() -> Iterator[str]:
    if sys.stdin.isatty():
        raise click.UsageError("give an INPUT, or pipe lines into standard input")
    try:
        for line in sys.stdin.buffer:
            if text := line.decode("utf-8").rstrip("\r\n"):
                yield text
    except UnicodeDecodeError as error:
        raise GenerationError(
            f"standard input is not UTF-8 at byte {error.start}: convert it first, for instance with iconv"
        ) from error


def _print_text(chunks: Iterator[Chunk]) -> Metrics | None:
    metrics = None
    for chunk in chunks:
        click.echo(chunk.text, nl=False)
        sys.stdout.flush()
        metrics = chunk.metrics
    click.echo()
    return metrics


def _print_json(text: str, chunks: Iterator[Chunk]) -> Metrics | None:
    parts = list(chunks)
    last = parts[-1]
    result = {
        "input": text,
        "text": "".join(chunk.text for chunk in parts),
        "token_ids": last.token_ids,
        "finish_reason": last.finish_reason,
        "metrics": last.metrics.as_dict() if last.metrics else {},
    }
    click.echo(json.dumps(result, ensure_ascii=False))
    return last.metrics


def describe(metrics: Metrics) -> str:
    """The statistics line for people."""
    return (
        f"{metrics.prompt_tokens} prompt tokens, {metrics.new_tokens} new; "
        f"TTFT {_number(metrics.ttft_ms)} ms, TPOT {_number(metrics.tpot_ms)} ms; "
        f"prefill {_number(metrics.prefill_tokens_per_second)} tokens/s, decode {_number(metrics.decode_tokens_per_second)} tokens/s; "
        f"peak memory {_number(metrics.peak_memory_mib)} MiB"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
