"""Command line options: generation's are made from GenerationConfig's fields, so that a new sampler needs no line here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgelm.errors import InvalidOption
from edgelm.generation_config import option_fields

# Settings that may be given as a file: how their text is told from a file's name, and what it is.
_TEXTS = {"json_schema": re.compile(r"^\s*(\{|true\s*$)"), "grammar": re.compile(r"^\s*\??start\b.*:", re.MULTILINE)}
_KINDS = {"json_schema": "a schema, which begins with {", "grammar": "a grammar, which has a rule named start"}

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
        shown = "FILE|TEXT" if option.name in _TEXTS else None
        kind: dict[str, Any] = {"is_flag": True} if option.choices == ("false", "true") else {"type": option.type}
        settings: dict[str, Any] = {
            "default": None,
            "multiple": option.multiple,
            "help": text,
            "metavar": shown,
            **kind,
        }
        function = click.option(flag, option.name, **settings)(function)
    return function


def encoder_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of encoders."""
    for add in (
        click.option("--truncate", is_flag=True, default=None, help="Encoders: cut inputs that are too long."),
        click.option(
            "--batch-size", type=int, help="Encoders, --batch: most inputs that run together. [default: 32, or 8]"
        ),
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


def load_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of loading a package."""
    for add in (
        click.option(
            "--max-length",
            type=int,
            help="Most tokens of an input and its answer together. [default: the package's context]",
        ),
        click.option(
            "--draft-model",
            metavar="PACKAGE",
            help="Decoders: a smaller one with the same vocabulary, to guess tokens.",
        ),
        click.option("--threads", type=int, help="Threads to compute with. [default: one a physical core]"),
        click.option(
            "--provider-option",
            "provider_options",
            type=(str, str),
            multiple=True,
            metavar="NAME VALUE",
            help="Option of ONNX Runtime's provider, such as gpu_mem_limit 4000000000.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto, or an execution provider: cpu, cuda, cuda:1, webgpu, openvino ...",
        ),
    ):
        function = add(function)
    return function


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that were typed, with the contents of files in the place of their names.

    Raises:
        InvalidOption: a file that cannot be read.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    return {name: _read(name, value) if name in _TEXTS else value for name, value in given.items()}


def _read(name: str, value: str) -> str:
    if _TEXTS[name].search(value):
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidOption(
            f"--{name.replace('_', '-')} {value[:80]} is neither a file that can be read nor {_KINDS[name]}"
        ) from error
