"""The generating half of `edgelm run`: text in, text out as it is generated."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import click

from edgelm.errors import GenerationError
from edgelm.metrics import Metrics
from edgelm.text_generation import Chunk, DecoderModel


def generate(
    model: DecoderModel,
    texts: Iterable[str],
    options: Mapping[str, Any],
    *,
    raw: bool,
    system: str | None,
    as_json: bool,
    stats: bool,
) -> None:
    """Prints what the model makes of each text."""
    if not raw and model.chat_template is None:
        raw = True
        if system is not None:
            raise GenerationError(f"{model.package.path} has no chat template, so --system cannot be used")
    for text in texts:
        chunks = model.stream(text, **options) if raw else model.stream_chat(_messages(text, system), **options)
        last = _print_json(text, chunks) if as_json else _print_text(chunks)
        if stats and last is not None:
            click.echo(describe(last), err=True)


def _messages(text: str, system: str | None) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": text}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


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
        **(
            {}
            if last.logprobs is None
            else {"logprobs": [asdict(one) for part in parts for one in part.logprobs or ()]}
        ),
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
        f"peak memory {_number(metrics.peak_memory_mib)} MiB{_guesses(metrics)}"
    )


def _guesses(metrics: Metrics) -> str:
    if not metrics.drafted_tokens:
        return ""
    steps = metrics.decode_steps
    return (
        f"; {metrics.accepted_tokens} of {metrics.drafted_tokens} guessed tokens came true, "
        f"{_number((steps + metrics.accepted_tokens) / steps if steps else None)} tokens a step"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
