"""Result files: docs/benchmarks/NAME.json, one a benchmark, and the page made of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from environments import ROOT
from report import write_report

RESULTS = ROOT / "docs" / "benchmarks"


def write(values: dict[str, Any], file: Path) -> None:
    """Writes a result file; the page too, when the file is one of those that the page shows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if file.parent.resolve() == RESULTS:
        write_report(ROOT / "docs")
    say(f"wrote {file}")


def say(text: str) -> None:
    """Progress."""
    click.echo(text, err=True)
