"""`make bench`, encoder-decoders: target tokens a second beside divergence, and the memory of a wide beam search, against peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import measure_seq2seq as measured
from contenders import enter
from machine import machine, pick_cpus
from measure_seq2seq import Bench, measure_divergence, measure_memory, measure_speed
from results import RESULTS, say, write
from rounds import summarize
from seq2seq import MODELS, REFERENCE, checkpoint, translators, vocabulary


@click.command()
@click.argument("names", nargs=-1)
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="May be repeated. [default: all]")
@click.option("--rounds", default=5, show_default=True, help="How often each contender is measured.")
@click.option("--threads", default=2, show_default=True, help="Threads, and cores all workers are pinned to.")
@click.option("--speed-only", is_flag=True, help="Neither divergence nor memory.")
@click.option("--output", type=click.Path(path_type=Path), help="Result file. [default: docs/benchmarks/seq2seq.json]")
def main(
    names: tuple[str, ...], models: tuple[str, ...], rounds: int, threads: int, speed_only: bool, output: Path | None
) -> None:
    """Measure the contenders NAMES (default: all) in turn on each checkpoint and write the results."""
    chosen = models or MODELS
    options = [*(f"--model {model}" for model in models), f"--rounds {rounds}"]
    values = {
        "what": "seq2seq",
        "machine": machine(),
        "command": " ".join(["python tests/benchmarks/run_seq2seq.py", *names, *options]),
        "settings": {"threads": threads, "rounds": rounds, **_settings()},
        "models": {model: {"contenders": _measure(model, names, rounds, threads, speed_only)} for model in chosen},
    }
    write(values, output or RESULTS / "seq2seq.json")


def _measure(model: str, names: tuple[str, ...], rounds: int, threads: int, speed_only: bool) -> dict[str, Any]:
    """What is known of each contender after all measurements on one checkpoint."""
    say(f"{model}:")
    known, source = translators(model, threads), checkpoint(model)
    everything = enter([*(names or known), REFERENCE], known, source, say)
    entered = {name: everything[name] for name in names or known}
    bench = Bench(entered, vocabulary(source), pick_cpus(threads), say)
    quality = {} if speed_only else measure_divergence(bench, everything[REFERENCE])
    memory = {} if speed_only else measure_memory(bench)
    results = measure_speed(bench, rounds)
    return {
        name: {
            **contender.facts(package),
            "quality": quality.get(name, {}),
            "memory": memory.get(name, {}),
            "summary": summarize(results[name]),
            "rounds": results[name],
        }
        for name, (contender, package) in entered.items()
    }


def _settings() -> dict[str, Any]:
    return {
        "source_tokens": measured.SOURCE_TOKENS,
        "new_tokens": measured.NEW_TOKENS,
        "settings": measured.SETTINGS,
        "divergence_tokens": measured.PAIRS * measured.NEW_TOKENS,
        "long_source": measured.LONG_SOURCE,
        "memory_beams": measured.MEMORY_BEAMS,
    }


if __name__ == "__main__":
    main()
