"""From the shell to the first token: the whole process, edgelm's command beside the least that llama.cpp needs, in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from contenders import Contender, enter
from decoders import decoders
from machine import machine, pick_cpus
from results import RESULTS, say, write
from rounds import measure_in_turn, summarize
from run import off_grid

from edgelm_export.sources import resolve_source

PROMPT = "Once upon a time"
COMMANDS: Mapping[str, Sequence[str]] = {
    "edgelm": (
        *("{bin}/edgelm", "run", "{package}", "{prompt}", "--raw", "--temperature", "0"),
        *("--max-new-tokens", "1", "--threads", "{threads}"),
    ),
    "llamacpp": ("{bin}/python", "{here}/start_llamacpp.py", "{package}/model.gguf", "{prompt}", "{threads}"),
}
NAMES = ("edgelm-int4", "llamacpp-Q4_0", "llamacpp-Q4_K_M")


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="A GGUF file, or what leads to one.")
@click.option("--rounds", default=9, show_default=True, help="How often each contender is measured.")
@click.option("--threads", default=2, show_default=True, help="Threads, and cores all processes are pinned to.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/start.json]")
def main(model: str, rounds: int, threads: int, output: Path | None) -> None:
    """Measure how long a first token takes from the shell, all files in memory."""
    known = {name: _started(contender) for name, contender in decoders(threads).items() if name in NAMES}
    entered = enter(NAMES, known, off_grid(resolve_source(model)), say)

    def describe(result: Mapping[str, Any]) -> str:
        times = f"first token {result['first_token_s']:.2f} s, end {result['process_s']:.2f} s"
        return f"{times}, {result['peak_rss_mib']:.0f} MiB"

    task = {"cpus": pick_cpus(threads), "prompt": PROMPT}
    results = measure_in_turn(entered, task, rounds, describe, say)
    values = {
        "what": "start",
        "machine": machine(),
        "command": "python tests/benchmarks/start.py",
        "model": model,
        "settings": {"threads": threads, "rounds": rounds, "prompt": PROMPT},
        "contenders": {
            name: {**contender.facts(package), "summary": summarize(results[name]), "rounds": results[name]}
            for name, (contender, package) in entered.items()
        },
    }
    write(values, output or RESULTS / "start.json")


def _started(contender: Contender) -> Contender:
    """The same, by its command instead of its worker."""
    command = COMMANDS[contender.name.partition("-")[0]]
    return replace(contender, worker="worker_start.py", options={"command": command})


if __name__ == "__main__":
    main()
