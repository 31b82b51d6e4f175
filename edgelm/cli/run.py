"""edgelm run PACKAGE: text in; text, vectors, labels, spans or scores out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from edgelm.api import load
from edgelm.cli.encode import encode
from edgelm.cli.generate import generate
from edgelm.cli.inputs import input_texts
from edgelm.cli.options import (
    ENCODER_OPTIONS,
    LANGUAGE_OPTIONS,
    encoder_options,
    generation_options,
    given_options,
    language_options,
)
from edgelm.cli.rewrite import rewrite
from edgelm.text_encoding import EncoderModel
from edgelm.text_to_text import Seq2SeqModel


@click.command()
@click.argument("package")
@click.argument("inputs", nargs=-1)
@generation_options
@encoder_options
@language_options
@click.option("--system", help="System message that precedes each input.")
@click.option("--raw", is_flag=True, help="Complete the input as it stands, without the chat template.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write results to: .jsonl or .parquet; embeddings also .npy.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, or an execution provider: cpu, cuda, cuda:1, webgpu, openvino ...",
)
@click.option(
    "--provider-option",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="Option of ONNX Runtime's provider, such as gpu_mem_limit 4000000000.",
)
@click.option("--threads", type=int, help="Threads to compute with. [default: one a physical core]")
@click.option(
    "--max-length", type=int, help="Most tokens of an input and its answer together. [default: the package's context]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an input.")
@click.option("--stats", is_flag=True, help="Print speed and memory to standard error.")
def command(
    package: str,
    inputs: tuple[str, ...],
    system: str | None,
    raw: bool,
    output: Path | None,
    device: str,
    threads: int | None,
    max_length: int | None,
    as_json: bool,
    stats: bool,
    provider_option: tuple[tuple[str, str], ...],
    **options: Any,
) -> None:
    """Run PACKAGE on each INPUT, or on each line of standard input.

    PACKAGE is a folder, or a name from `edgelm models`, which is exported at first use. A decoder with a chat template gets
    each input as a user message. An encoder does what it was exported for: embeds, classifies, tags, answers --question,
    fills masks, or ranks the inputs for --query. An encoder-decoder rewrites each input: translates or summarises it.
    """
    if raw and system is not None:
        raise click.UsageError("--system needs the chat template, which --raw leaves out")
    model = load(package, device, threads, max_length, dict(provider_option))
    if stats:
        click.echo(f"device {model.device}", err=True)
    given, mixed = given_options(options), _set(system=system, raw=raw)
    if isinstance(model, EncoderModel):
        _refuse({**_others(given, ENCODER_OPTIONS), **mixed}, "generate text")
        encode(model, input_texts(inputs, blank=True), given, output, as_json=as_json, stats=stats)
    elif isinstance(model, Seq2SeqModel):
        _refuse({**_of(given, _ENCODING), **mixed}, "embed, classify, tag, answer, fill or rank")
        rewrite(model, input_texts(inputs, blank=True), given, output, as_json=as_json, stats=stats)
    else:
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
