"""Inputs of a command: arguments, or the lines of standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click

from edgelm.errors import GenerationError


def input_texts(inputs: Sequence[str], *, blank: bool = False) -> Iterator[str]:
    """The arguments, or each line of standard input; blank lines count only where `blank` says so.

    Raises:
        GenerationError: standard input is not UTF-8.
    """
    if inputs:
        yield from inputs
        return
    if sys.stdin.isatty():
        raise click.UsageError("give an INPUT, or pipe lines into standard input")
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise GenerationError(
                f"standard input is not UTF-8 at byte {error.start} of line {number}: convert it first, for instance with iconv"
            ) from error
        if text or blank:
            yield text
