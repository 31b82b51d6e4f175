"""Peak resident memory and time of `edgelm export --no-verify`, in processes of their own, and whether two exports give the same bytes.

Large checkpoints are exported within --max-ram, from files that the system has not in memory, beside the time of copying those files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from contenders import folder_size
from environments import BUILD, HERE
from machine import machine
from mixtures import EIGHT_BILLION
from results import RESULTS, say, write
from synthetic import EIGHT_BILLION_DENSE, write_checkpoint

from edgelm_export.sources import resolve_source

MAX_RAM = "2GB"


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="The real checkpoint.")
@click.option("--precision", default="int4", show_default=True)
@click.option(
    "--large/--no-large",
    default=True,
    show_default=True,
    help="Also a synthetic checkpoint of 4 GB (needs 6 GB of disk).",
)
@click.option(
    "--bounded/--no-bounded",
    default=False,
    show_default=True,
    help="Also 8 billion parameters within 2 GB of memory, dense (16 GB, copied once: needs 32 GB of disk) and a mixture.",
)
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/memory.json]")
def main(model: str, precision: str, large: bool, bounded: bool, output: Path | None) -> None:
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
        "command": "python tests/benchmarks/export_memory.py" + " --bounded" * bounded,
        "settings": {"precision": precision},
        "exports": exports,
    }
    if bounded:
        values["bounded"] = _bounded()
    write(values, output or RESULTS / "memory.json")


def _bounded() -> dict[str, Any]:
    """Exports of eight billion parameters within MAX_RAM; the dense ones have random weights, the mixture zeros that need no disk."""
    dense, mixture = BUILD / "synthetic-8b-dense", BUILD / "synthetic-8b"
    try:
        size = write_checkpoint(dense, EIGHT_BILLION_DENSE)
        copy = copy_seconds(dense)
        results = {
            f"dense, {precision}": {"copy_seconds": round(copy, 1), **_export_cold(dense, size, precision)}
            for precision in ("int4", "int8")
        }
        shutil.rmtree(dense)
        size = write_checkpoint(mixture, EIGHT_BILLION, sparse=True)
        return results | {"mixture of experts, int4": _export_cold(mixture, size, "int4")}
    finally:
        for folder in (dense, mixture):
            shutil.rmtree(folder, ignore_errors=True)


def _export_cold(checkpoint: Path, size: int, precision: str) -> dict[str, Any]:
    forget_files()
    run = export_once(checkpoint, precision, BUILD / "bounded", "--max-ram", MAX_RAM)
    found = {
        "checkpoint_bytes": size,
        "package_bytes": run["bytes"],
        "max_ram": MAX_RAM,
        "peak_rss_mb": round(run["peak_rss_mib"] * 2**20 / 1e6, 1),
        "seconds": round(run["seconds"], 1),
    }
    say(f"{checkpoint.name}, {precision}: {found}")
    return found


def copy_seconds(folder: Path) -> float:
    """The time of copying a folder's files, which the system has not in memory, to the same disk."""
    copy = BUILD / "copied"
    forget_files()
    start = time.perf_counter()
    try:
        shutil.copytree(folder, copy)
        return time.perf_counter() - start
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def forget_files() -> None:
    """Makes the system read files from the disk again."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


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


def export_once(checkpoint: Path, precision: str, folder: Path, *options: str) -> dict[str, Any]:
    """Exports a checkpoint in a process of its own: its seconds, peak memory, digests and bytes; the package is removed."""
    command = [sys.executable, str(HERE / "worker_export.py"), "export", str(checkpoint), "-o", str(folder)]
    command += ["--precision", precision, "--no-verify", "--force", *options]
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
