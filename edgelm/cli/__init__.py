"""The command line. One command a file, imported when called, so that `edgelm --help` is quick."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from edgelm import __version__
from edgelm.errors import EdgeLMError

_COMMANDS = ("export", "run", "chat", "bench", "inspect", "verify", "doctor", "models")


class _Commands(click.Group):
    """Finds a command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return importlib.import_module(f"edgelm.cli.{cmd_name}").command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EdgeLMError as error:
            click.secho(f"edgelm: {error}", fg="red", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgelm")
def cli() -> None:
    """Transformers on small machines: export a checkpoint to a verified, quantized ONNX package, and run it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `edgelm` command."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=True)
    except BrokenPipeError:  # `edgelm run ... | head` closes our output early, which is not an error
        sys.stderr.close()
        sys.exit(0)


def _terminated(number: int, frame: FrameType | None) -> None:
    """Ends as an error does, so that what is half-written is removed."""
    sys.exit(128 + number)
