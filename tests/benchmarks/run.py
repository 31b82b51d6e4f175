"""`make bench`, decoders: speed beside divergence, against peers in their own environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from contenders import enter
from decoders import BUDGETS, REFERENCE, decoders
from environments import BUILD
from machine import machine, pick_cpus
from measure import NEW_TOKENS, Lengths, evaluation_ids, measure_divergence, measure_speed
from off_grid import write_off_grid
from results import RESULTS, say, write
from rounds import summarize

from edgelm_export.sources import Source, resolve_source

LENGTHS = Lengths()


@click.command()
@click.argument("names", nargs=-1)
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="A GGUF file, or what leads to one.")
@click.option("--rounds", default=5, show_default=True, help="How often each contender is measured.")
@click.option("--threads", default=2, show_default=True, help="Threads, and cores all workers are pinned to.")
@click.option("--no-divergence", is_flag=True, help="Measure speed only.")
@click.option("--output", type=click.Path(path_type=Path), help="Result file. [default: docs/benchmarks/speed.json]")
def main(
    names: tuple[str, ...], model: str, rounds: int, threads: int, no_divergence: bool, output: Path | None
) -> None:
    """Measure the contenders NAMES (default: all but the reference) in turn and write the results."""
    source, known = resolve_source(model), decoders(threads)
    chosen = names or tuple(name for name in known if name != REFERENCE)
    everything = enter(list(dict.fromkeys([*chosen, REFERENCE])), known, off_grid(source), say)
    entered = {name: everything[name] for name in chosen}
    reference = everything[REFERENCE]
    ids, cpus = evaluation_ids(reference[1]), pick_cpus(threads)
    quality = {} if no_divergence else measure_divergence(entered, reference, ids, cpus, say)
    results = measure_speed(entered, ids, LENGTHS, cpus, rounds, say)
    values = {
        "what": "speed",
        "machine": machine(),
        "command": " ".join(["python tests/benchmarks/run.py", *names, f"--model {model} --rounds {rounds}"]),
        "model": {"name": model, "source": source.id, "revision": source.revision},
        "settings": _settings(threads, rounds, len(ids)),
        "contenders": {
            name: {
                **contender.facts(package),
                "quality": quality.get(name, {}),
                "summary": summarize(results[name]),
                "rounds": results[name],
            }
            for name, (contender, package) in entered.items()
        },
    }
    write(values, output or RESULTS / "speed.json")


def off_grid(source: Source) -> Path:
    """The float32 file that all are made of: weights that no type of anybody stores without loss."""
    BUILD.mkdir(parents=True, exist_ok=True)
    file = BUILD / f"{source.path.stem}-off-grid.gguf"
    if not file.exists():
        write_off_grid(source.path, file)
    return file


def _settings(threads: int, rounds: int, text: int) -> dict[str, Any]:
    lengths = vars(LENGTHS)
    return {
        "threads": threads,
        "rounds": rounds,
        **lengths,
        "new_tokens": NEW_TOKENS,
        "divergence_tokens": text,
        "budgets": BUDGETS,
    }


if __name__ == "__main__":
    main()
