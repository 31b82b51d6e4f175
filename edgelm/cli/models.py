"""`edgelm models`: the catalogue, and what of it is on this machine already. Asks no server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from edgelm import home
from edgelm.api import exporter
from edgelm.manifest import MANIFEST


@dataclass(frozen=True)
class _Row:
    """One model as the command shows it; `package` is where it was exported at first use."""

    name: str
    description: str
    architecture: str
    parameters: int
    licence: str
    sources: list[str]
    cached: bool
    package: str | None


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead of a table.")
def command(as_json: bool) -> None:
    """List the models that can be named instead of a path or a hub id."""
    rows = _rows()
    if as_json:
        click.echo(json.dumps([vars(row) for row in rows], indent=2))
        return
    table = [("NAME", "PARAMETERS", "LICENCE", "HERE", "FROM")]
    table += [(row.name, _count(row.parameters), row.licence, _here(row), ", else ".join(row.sources)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rows() -> list[_Row]:
    sources, catalogue = exporter("sources"), exporter("catalogue").load_catalogue()
    return [
        _Row(
            name=entry.name,
            description=entry.description,
            architecture=entry.architecture,
            parameters=entry.parameters,
            licence=entry.licence,
            sources=[str(source) for source in entry.sources],
            cached=sources.is_cached(entry),
            package=_package(home.packages_folder() / entry.name),
        )
        for entry in catalogue.values()
    ]


def _package(folder: Path) -> str | None:
    return str(folder) if (folder / MANIFEST).is_file() else None


def _here(row: _Row) -> str:
    if row.package is not None:
        return "exported"
    return "downloaded" if row.cached else "-"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
