"""Command line options: generation's are made from GenerationConfig's fields, so that a new sampler needs no line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from edgelm.generation_config import option_fields

# Settings of encoders; top_k is among generation's too.
ENCODER_OPTIONS = (
    "top_k",
    "question",
    "query",
    "no_answer",
    "aggregation",
    "dimensions",
    "normalize",
    "prompt_name",
    "batch_size",
    "truncate",
)

# Settings of encoder-decoders, beside generation's and batch_size.
LANGUAGE_OPTIONS = ("source_lang", "target_lang")


def generation_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds one option for every field of GenerationConfig."""
    for option in reversed(option_fields()):
        text = option.help if option.range is None else f"{option.help} {option.range}"
        flag = f"--{option.name.replace('_', '-')}"
        kind: dict[str, Any] = {"is_flag": True} if option.choices == ("false", "true") else {"type": option.type}
        function = click.option(flag, option.name, default=None, multiple=option.multiple, help=text, **kind)(function)
    return function


def encoder_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of encoders."""
    for add in (
        click.option("--truncate", is_flag=True, default=None, help="Encoders: cut inputs that are too long."),
        click.option("--batch-size", type=int, help="Encoders: most inputs that run together. [default: 32]"),
        click.option("--prompt-name", help="Embeddings: the checkpoint's prompt to put before each input."),
        click.option("--normalize", is_flag=True, default=None, help="Embeddings: bring them to length 1."),
        click.option("--dimensions", type=int, help="Embeddings: keep only the first so many."),
        click.option("--aggregation", help="Tagging: none, simple, first, average or max. [default: simple]"),
        click.option(
            "--no-answer", is_flag=True, default=None, help="Question answering: let an empty answer compete."
        ),
        click.option("--query", help="Reranking: what the inputs are ranked for."),
        click.option("--question", help="Question answering: what each input is asked."),
    ):
        function = add(function)
    return function


def language_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of models that know several languages."""
    for add in (
        click.option("--target-lang", help="Encoder-decoders: language code of what is written."),
        click.option("--source-lang", help="Encoder-decoders: language code of the inputs."),
    ):
        function = add(function)
    return function


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that were typed."""
    return {name: value for name, value in values.items() if value is not None and value != ()}
