"""edgelm verify PACKAGE: is it what was exported, and does it run here as it did there?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgelm.api import exporter, find_package
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm.verification import Check, verify_package


@click.command()
@click.argument("package")
@click.option("--against", metavar="SOURCE", help="Measure the quality card again, with the float graph of SOURCE.")
@click.option(
    "--eval-text",
    type=click.Path(path_type=Path),
    help="With --against: the text that the package was measured on, where it was not the built-in one.",
)
@click.option(
    "--record", is_flag=True, help="With --against: put what was measured into PACKAGE, in place of what it has."
)
@click.option("--device", default="auto", show_default=True, help="auto, or an execution provider.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    package: str, against: str | None, eval_text: Path | None, record: bool, device: str, as_json: bool
) -> None:
    """Check PACKAGE: digests, signatures, operators and their known answers, and a recorded run repeated.

    The exit code is 0 when all is well and 1 when a check failed.
    """
    if against is None and (eval_text is not None or record):
        raise click.UsageError("--eval-text and --record are for --against")
    measured: list[tuple[Package, Provider, Mapping[str, Any]]] = []

    def measure(opened: Package, provider: Provider) -> Mapping[str, Any]:
        quality = exporter("against").measure_again(opened, against, provider, eval_text, _say)
        measured.append((opened, provider, quality))
        return quality

    checks: list[Check] = []
    for check in verify_package(find_package(package), device, None if against is None else measure):
        checks.append(check)
        if not as_json:
            click.echo(line(check))
    ok = all(check.ok for check in checks)
    if record and ok:
        for found in measured:
            exporter("against").record(*found, eval_text)
            _say(f"recorded in {found[0].path}")
    if as_json:
        click.echo(json.dumps({"package": package, "ok": ok, "checks": [vars(check) for check in checks]}))
    if not ok:
        raise click.exceptions.Exit(1)


def line(check: Check) -> str:
    """A check for people."""
    return f"{'ok' if check.ok else 'failed':<8}{check.name:<40}{check.detail}"


def _say(text: str) -> None:
    click.echo(text, err=True)
