"""`make bench`, decoders: speed beside divergence, against peers in their own environments."""

from __future__ import annotations

from pathlib import Path

import click
from contenders import enter
from decoders import DEFAULT, REFERENCE, decoders
from machine import machine, pick_cpus
from measure import NEW_TOKENS, PREFILL_TOKENS, PROMPT_TOKENS, evaluation_ids, measure_divergence, measure_speed
from results import RESULTS, say, write
from rounds import summarize

from edgelm_export.sources import resolve_source


@click.command()
@click.argument("names", nargs=-1)
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Anything `edgelm export` takes.")
@click.option("--rounds", default=5, show_default=True, help="How often each contender is measured.")
@click.option("--threads", default=2, show_default=True, help="Threads, and cores all workers are pinned to.")
@click.option("--no-divergence", is_flag=True, help="Measure speed only.")
@click.option("--output", type=click.Path(path_type=Path), help="Result file. [default: docs/benchmarks/speed.json]")
def main(
    names: tuple[str, ...], model: str, rounds: int, threads: int, no_divergence: bool, output: Path | None
) -> None:
    """Measure the contenders NAMES (default: all quantized ones) in turn and write the results."""
    source = resolve_source(model)
    everything = enter([*(names or DEFAULT), REFERENCE], decoders(threads), source.path, say)
    entered = {name: everything[name] for name in names or DEFAULT}
    reference = everything[REFERENCE]
    ids, cpus = evaluation_ids(reference[1]), pick_cpus(threads)
    quality = {} if no_divergence else measure_divergence(entered, reference, ids, cpus, say)
    results = measure_speed(entered, ids, cpus, rounds, say)
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


def _settings(threads: int, rounds: int, text: int) -> dict[str, int]:
    return {
        "threads": threads,
        "rounds": rounds,
        "prefill_tokens": PREFILL_TOKENS,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "divergence_tokens": text,
    }


if __name__ == "__main__":
    main()
