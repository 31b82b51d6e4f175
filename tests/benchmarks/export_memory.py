"""Peak resident memory and time of `edgelm export --no-verify`, in processes of their own, and whether two exports give the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from contenders import folder_size
from environments import BUILD, HERE
from machine import machine
from results import RESULTS, say, write
from synthetic import write_checkpoint

from edgelm_export.sources import resolve_source


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="The real checkpoint.")
@click.option("--precision", default="int4", show_default=True)
@click.option(
    "--large/--no-large",
    default=True,
    show_default=True,
    help="Also a synthetic checkpoint of 4 GB (needs 6 GB of disk).",
)
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/memory.json]")
def main(model: str, precision: str, large: bool, output: Path | None) -> None:
    """Measure what an export needs."""
    BUILD.mkdir(parents=True, exist_ok=True)
    checkpoint = resolve_source(model).path
    exports = {model: export_twice(checkpoint, precision)}
    if large:
        folder = BUILD / "synthetic"
        try:
            size = write_checkpoint(folder)
            exports[f"synthetic llama, 32 layers, {size / 1e9:.1f} GB of bfloat16"] = export_twice(folder, precision)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    values = {
        "what": "memory",
        "machine": machine(),
        "command": "python tests/benchmarks/export_memory.py",
        "settings": {"precision": precision},
        "exports": exports,
    }
    write(values, output or RESULTS / "memory.json")


def export_twice(checkpoint: Path, precision: str) -> dict[str, Any]:
    """Exports a checkpoint two times and compares every file."""
    runs = [export_once(checkpoint, precision, BUILD / f"memory-{number}") for number in (1, 2)]
    result = {
        "checkpoint_bytes": checkpoint.stat().st_size if checkpoint.is_file() else folder_size(checkpoint),
        "package_bytes": runs[0]["bytes"],
        "seconds": round(min(run["seconds"] for run in runs), 1),
        "peak_rss_mb": round(max(run["peak_rss_mib"] for run in runs) * 2**20 / 1e6, 1),
        "same_bytes": runs[0]["digests"] == runs[1]["digests"],
    }
    say(
        f"{checkpoint.name}: peak {result['peak_rss_mb']} MB, {result['seconds']} s, "
        f"same bytes twice: {result['same_bytes']}"
    )
    return result


def export_once(checkpoint: Path, precision: str, folder: Path) -> dict[str, Any]:
    """Exports a checkpoint in a process of its own: its seconds, peak memory, digests and bytes; the package is removed."""
    command = [sys.executable, str(HERE / "worker_export.py"), "export", str(checkpoint), "-o", str(folder)]
    command += ["--precision", precision, "--no-verify", "--force"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with exit code {done.returncode}")
    usage = json.loads(done.stdout.strip().splitlines()[-1])
    try:
        digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        return {**usage, "digests": digests, "bytes": folder_size(folder)}
    finally:
        shutil.rmtree(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
