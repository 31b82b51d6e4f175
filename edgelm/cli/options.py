"""Command line options made from GenerationConfig's fields, so that a new sampler needs no line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from edgelm.generation_config import option_fields


def generation_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds one option for every field of GenerationConfig."""
    for option in reversed(option_fields()):
        text = option.help if option.range is None else f"{option.help} {option.range}"
        flag = f"--{option.name.replace('_', '-')}"
        function = click.option(flag, option.name, type=option.type, multiple=option.multiple, help=text)(function)
    return function


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """Those of the generation options that were typed."""
    return {name: value for name, value in values.items() if value is not None and value != ()}
