"""How near a decode step comes to what reading its weights and cache takes: `edgelm bench` on SmolLM2 and on a model of a billion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from contenders import EDGELM, export_package, prepare
from decoders import decoders
from environments import BUILD, versions
from machine import machine, pick_cpus
from results import RESULTS, say, write
from run import off_grid
from synthetic import BILLION, write_checkpoint

from edgelm_export.sources import resolve_source


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--repetitions", default=9, show_default=True, help="How often each is measured, packages in turn.")
@click.option("--new-tokens", default=64, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/floor.json]")
def main(model: str, threads: int, repetitions: int, new_tokens: int, output: Path | None) -> None:
    """Measure int4 decode steps, and the bandwidth of memory in the same process."""
    small = prepare(decoders(threads)["edgelm-int4"], off_grid(resolve_source(model)))
    packages = {model: small, "a Llama of 1.2 billion random weights": _billion()}
    settings = {"threads": threads, "repetitions": repetitions, "new_tokens": new_tokens, "prompt_tokens": 0}
    measured = _bench([*packages.values()], settings, pick_cpus(threads))
    values: dict[str, Any] = {
        "what": "floor",
        "machine": machine(),
        "command": f"python tests/benchmarks/bandwidth_floor.py --repetitions {repetitions}",
        "settings": settings,
        "versions": versions(Path(sys.executable), [*EDGELM]),
        "memory_bytes_per_second": measured["memory_bytes_per_second"],
        "packages": {
            name: {"bytes": entry["bytes"], "precision": entry["precision"], **_steps(entry)}
            for name, entry in zip(packages, measured["packages"], strict=True)
        },
    }
    for name, entry in values["packages"].items():
        say(f"{name}: {entry['median']:.1f} tokens/s, {entry['share_of_floor']:.0%} of the floor")
    write(values, output or RESULTS / "floor.json")


def _billion() -> Path:
    """An int4 package in the shapes of Llama 3.2 1B."""
    folder, checkpoint = BUILD / "floor-1b", BUILD / "synthetic-1b"
    if not folder.exists():
        write_checkpoint(checkpoint, BILLION)
        export_package("int4", checkpoint, folder)
    return folder


def _bench(packages: list[Path], settings: dict[str, int], cpus: list[int]) -> dict[str, Any]:
    """`edgelm bench` in a process of its own, on these cores."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    pinned = ["taskset", "-c", ",".join(map(str, cpus))] if sys.platform == "linux" else []
    line = [*pinned, sys.executable, "-m", "edgelm", "bench", *map(str, packages), *options, "--json"]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def _steps(entry: dict[str, Any]) -> dict[str, Any]:
    (test,) = entry["tests"].values()
    return {key: test[key] for key in ("median", "tokens_per_second", "floor_ms", "share_of_floor")}


if __name__ == "__main__":
    main()
