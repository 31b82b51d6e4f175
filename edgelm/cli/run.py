"""edgelm run PACKAGE: text in; text, vectors, labels, spans or scores out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from edgelm.api import load
from edgelm.cli.inputs import input_texts
from edgelm.cli.options import (
    ENCODER_OPTIONS,
    LANGUAGE_OPTIONS,
    encoder_options,
    generation_options,
    given_options,
    language_options,
    load_options,
)


@click.command()
@click.argument("package")
@click.argument("inputs", nargs=-1)
@generation_options
@encoder_options
@language_options
@click.option("--adapter", help="Decoders: one of the package's adapters to answer with.")
@click.option("--system", help="System message that precedes each input.")
@click.option(
    "--batch",
    type=click.Path(path_type=Path),
    help="Decoders: JSON Lines of requests to answer, in order, into -o. Started again, it goes on where it was.",
)
@click.option("--raw", is_flag=True, help="Complete the input as it stands, without the chat template.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write results to: .jsonl or .parquet; embeddings also .npy.",
)
@load_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an input.")
@click.option("--stats", is_flag=True, help="Print speed and memory to standard error.")
def command(
    package: str,
    inputs: tuple[str, ...],
    system: str | None,
    batch: Path | None,
    raw: bool,
    output: Path | None,
    device: str,
    threads: int | None,
    max_length: int | None,
    draft_model: str | None,
    provider_options: tuple[tuple[str, str], ...],
    as_json: bool,
    stats: bool,
    **options: Any,
) -> None:
    """Run PACKAGE on each INPUT, or on each line of standard input.

    PACKAGE is a folder, or a name from `edgelm models`, which is exported at first use. A decoder with a chat template gets
    each input as a user message. An encoder does what it was exported for: embeds, classifies, tags, answers --question,
    fills masks, or ranks the inputs for --query. An encoder-decoder rewrites each input: translates or summarises it.

    A line of --batch is an object with "prompt" (completed as it stands) or "messages", and if wanted "id" and options of
    its own.
    """
    if raw and system is not None:
        raise click.UsageError("--system needs the chat template, which --raw leaves out")
    if options["logprobs"] is not None and not as_json and output is None:
        raise click.UsageError("--logprobs are shown only with --json")
    given, mixed = given_options(options), _set(system=system, raw=raw)
    if batch is not None:
        if output is None:
            raise click.UsageError("--batch needs a file for the answers: -o FILE.jsonl")
        _refuse(_set(inputs=inputs, json=as_json, stats=stats, **mixed), "get their inputs one by one, without --batch")
    model = load(package, device, threads, max_length, draft_model=draft_model, provider_options=dict(provider_options))
    if stats:
        click.echo(f"device {model.device}", err=True)
    # Each family's half of the command is imported when it is called.
    family = model.package.manifest.family
    if batch is not None and output is not None:
        if family != "decoder":
            raise click.UsageError("--batch: only for packages of decoders; others take lines of standard input")
        _refuse(_of(given, {*_ENCODING, *LANGUAGE_OPTIONS}), "encode or rewrite")
        from edgelm.cli.batch import run_batch

        rows = given.pop("batch_size", None)
        run_batch(model, batch, output, given, rows=rows)
    elif family == "encoder":
        from edgelm.cli.encode import encode

        _refuse({**_others(given, ENCODER_OPTIONS), **mixed}, "generate text")
        encode(model, input_texts(inputs, blank=True), given, output, as_json=as_json, stats=stats)
    elif family == "encoder-decoder":
        from edgelm.cli.rewrite import rewrite

        _refuse({**_of(given, _ENCODING), **mixed}, "embed, classify, tag, answer, fill or rank")
        rewrite(model, input_texts(inputs, blank=True), given, output, as_json=as_json, stats=stats)
    else:
        from edgelm.cli.generate import generate

        _refuse(
            {**_of(given, {*_ENCODING, "batch_size", *LANGUAGE_OPTIONS}), **_set(output=output)}, "encode or rewrite"
        )
        generate(model, input_texts(inputs), given, raw=raw, system=system, as_json=as_json, stats=stats)


# Options that no model takes that writes text.
_ENCODING = frozenset(ENCODER_OPTIONS) - {"top_k", "batch_size"}


def _of(given: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}


def _others(given: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def _set(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def _refuse(options: dict[str, Any], what: str) -> None:
    if options:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(options))
        raise click.UsageError(f"{flags}: only for packages that {what}")
