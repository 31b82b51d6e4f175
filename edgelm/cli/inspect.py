"""edgelm inspect SOURCE|PACKAGE: what it is and what it costs, from headers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import click

from edgelm.api import exporter
from edgelm.cli.facts import package_facts
from edgelm.manifest import MANIFEST
from edgelm.package import Package
from edgelm.quality_card import screens


@click.command()
@click.argument("source")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Use only what is on disk already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(source: str, revision: str | None, offline: bool, as_json: bool) -> None:
    """Describe SOURCE: a package folder, or anything `edgelm export` takes. No weight is read; of a hub id, none is fetched."""
    if (Path(source) / MANIFEST).is_file():
        facts = package_facts(Package.open(source))
    else:
        facts = exporter("inspection").inspect_checkpoint(source, revision=revision, offline=offline)
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else describe(facts))


def describe(facts: dict[str, Any]) -> str:
    """The facts for people, one a line, byte counts as MB; behind them the quality card of a package."""
    lines: list[str] = []
    for key, value in facts.items():
        if key in ("quality", "forms") or value in ([], {}):
            continue
        label = key.replace("_bytes", "").replace("bytes", "size").replace("_", " ")
        lines.append(f"{label + ':':<28}{_value(key, value)}")
    if "quality" not in facts:
        return "\n".join(lines)
    others = {device: form["quality"] for device, form in facts.get("forms", {}).items()}
    return "\n".join([*lines, *screens({facts["device"]: facts["quality"], **others})])


def _value(key: str, value: Any) -> str:
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return ", ".join(f"{name} {_value(key if 'bytes' in key else name, item)}" for name, item in items)
    if isinstance(value, list):
        return "; ".join(str(item) for item in cast(list[Any], value))
    if isinstance(value, int) and "bytes" in key:
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,}" if isinstance(value, int) else str(value)
