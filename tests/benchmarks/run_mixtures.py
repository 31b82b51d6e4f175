"""Mixtures of experts: decode speed against dense experts and llama.cpp, the time a session takes to load, memory of a large export."""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from contenders import enter, export_package
from environments import BUILD
from export_memory import export_once
from machine import machine, pick_cpus
from measure import NEW_TOKENS, Lengths, measure_speed
from mixtures import CONFIGS, EIGHT_BILLION, SIXTY_FOUR_BY_24, contenders, synthetic_checkpoint
from results import RESULTS, say, write
from rounds import summarize
from synthetic import write_checkpoint

from edgelm.providers import PROVIDERS
from edgelm.session import Program

LENGTHS = Lengths(prompts=(512,), contexts=(32,))


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--model", "models", multiple=True, type=click.Choice([*CONFIGS]), help="[default: all]")
@click.option("--memory/--no-memory", default=True, help="Export a sparse checkpoint of 16 GB (writes 5 GB).")
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/mixtures.json]")
def main(rounds: int, threads: int, models: tuple[str, ...], memory: bool, output: Path | None) -> None:
    """Measure what mixtures of experts cost."""
    values: dict[str, Any] = {
        "what": "mixtures",
        "machine": machine(),
        "command": " ".join(
            ["python tests/benchmarks/run_mixtures.py", f"--rounds {rounds}", *(f"--model {name}" for name in models)]
        ),
        "settings": {"threads": threads, "rounds": rounds, **asdict(LENGTHS), "new_tokens": NEW_TOKENS},
        "decode": {name: _decode(name, rounds, threads) for name in models or CONFIGS},
        "session_seconds": _session_seconds(threads),
    }
    if memory:
        values["export"] = _export_memory()
    write(values, output or RESULTS / "mixtures.json")


def _decode(name: str, rounds: int, threads: int) -> dict[str, Any]:
    known = contenders(name, threads)
    entered = enter([*known], known, synthetic_checkpoint(name), say)
    ids = np.random.default_rng(0).integers(3, CONFIGS[name]["vocab_size"], 512).tolist()
    results = measure_speed(entered, ids, LENGTHS, pick_cpus(threads), rounds, say)
    return {
        "config": dict(CONFIGS[name]),
        "contenders": {
            contender: {
                **entered[contender][0].facts(entered[contender][1]),
                "summary": summarize(results[contender]),
                "rounds": results[contender],
            }
            for contender in entered
        },
    }


def _session_seconds(threads: int) -> dict[str, Any]:
    """Time to load a package of 64 experts x 24 layers, its files read before."""
    checkpoint, folder = BUILD / "synthetic-64x24", BUILD / "64x24"
    write_checkpoint(checkpoint, SIXTY_FOUR_BY_24, sparse=True)
    export_package("int4", checkpoint, folder)
    shutil.rmtree(checkpoint)
    seconds: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        Program(folder / "decoder.onnx", PROVIDERS["cpu"], threads)
        seconds.append(time.perf_counter() - start)
    size = sum(path.stat().st_size for path in folder.iterdir())
    shutil.rmtree(folder)
    say(f"64 experts x 24 layers, {size / 1e9:.2f} GB: loaded in {statistics.median(seconds):.2f} s")
    return {"config": dict(SIXTY_FOUR_BY_24), "bytes": size, "median": statistics.median(seconds), "all": seconds}


def _export_memory() -> dict[str, Any]:
    """Peak resident memory of exporting eight billion parameters; zeros in a sparse file, so that they need no disk."""
    checkpoint = BUILD / "synthetic-8b"
    try:
        size = write_checkpoint(checkpoint, EIGHT_BILLION, sparse=True)
        run = export_once(checkpoint, "int4", BUILD / "memory-8b")
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
    say(f"{size / 2e9:.1f} billion parameters: peak {run['peak_rss_mib']:.0f} MiB, {run['seconds']:.0f} s")
    return {"config": dict(EIGHT_BILLION), "parameters": size // 2, **run}


if __name__ == "__main__":
    main()
