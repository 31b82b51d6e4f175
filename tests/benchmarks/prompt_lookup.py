"""Prompt lookup on a text that is rewritten with one change: tokens a step and time beside plain decoding, in turn, same text."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

import click
from decoders import own_package
from machine import machine, pick_cpus
from results import RESULTS, say, write

import edgelm
from edgelm.generation import Generation

PARAGRAPH = (
    "The river Elbe rises in the mountains of Bohemia and flows through Germany to the North Sea. On its way it passes Dresden, "
    "Magdeburg and Hamburg. For many centuries it was the border between peoples, and traders carried salt, grain and timber on "
    "its back. Today ships still travel on it, but fewer than before, and in dry summers the water is often too low. Along the "
    "banks there are meadows, castles and old towns, and in spring the storks come back from Africa and build their nests on the "
    "roofs of the farm houses."
)
# A model this small copies only what it has seen copied.
PROMPT = (
    f"Version 1:\n{PARAGRAPH}\n\nVersion 2, with Elbe replaced by Oder:\n{PARAGRAPH.replace('Elbe', 'Oder')}\n\n"
    "Version 3, with Elbe replaced by Weser:\n"
)
OPTIONS: dict[str, Any] = {"temperature": 0, "max_new_tokens": 160, "stop": "\n\n"}


@click.command()
@click.option("--precision", "precisions", multiple=True, default=("int4", "int8"), show_default=True)
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--guesses", default=16, show_default=True, help="prompt_lookup_num_tokens.")
@click.option("--rounds", default=7, show_default=True, help="Pairs of runs, in turn.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/lookup.json]")
def main(precisions: tuple[str, ...], model: str, threads: int, guesses: int, rounds: int, output: Path | None) -> None:
    """Measure what prompt lookup brings where a text is copied."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, pick_cpus(threads))
    values = {
        "what": "lookup",
        "machine": machine(),
        "command": "python tests/benchmarks/prompt_lookup.py",
        "model": model,
        "settings": {"threads": threads, "rounds": rounds, "prompt_lookup_num_tokens": guesses},
        "packages": {
            name: _measured(own_package(model, threads, name), threads, guesses, rounds) for name in precisions
        },
    }
    write(values, output or RESULTS / "lookup.json")


def _measured(package: Path, threads: int, guesses: int, rounds: int) -> dict[str, Any]:
    """Figures of one package.

    Raises:
        ClickException: guesses changed the text, or it is not the one that was asked for.
    """
    with edgelm.load(package, threads=threads) as loaded:
        pairs: list[tuple[Generation, Generation]] = []
        for _ in range(rounds + 1):
            plain = loaded.generate(PROMPT, **OPTIONS)
            pairs.append((plain, loaded.generate(PROMPT, **OPTIONS, prompt_lookup_num_tokens=guesses)))
    if any(one.text.strip() != PARAGRAPH.replace("Elbe", "Weser") for pair in pairs for one in pair):
        raise click.ClickException(f"{package}: the texts are not all the one that was asked for")
    plain_ms, lookup_ms = ([_milliseconds(pair[i]) for pair in pairs[1:]] for i in (0, 1))
    ratios = [plain / lookup for plain, lookup in zip(plain_ms, lookup_ms, strict=True)]
    steps = [pair[1].metrics.decode_steps for pair in pairs[1:]]
    new = pairs[0][0].metrics.new_tokens
    found = {
        "new_tokens": new,
        "decode_steps": {"plain": pairs[0][0].metrics.decode_steps, "lookup": statistics.median(steps)},
        "plain_ms": round(statistics.median(plain_ms), 3),
        "lookup_ms": round(statistics.median(lookup_ms), 3),
        "times_as_fast": {"median": round(statistics.median(ratios), 3), "least": round(min(ratios), 3)},
    }
    say(f"{package.name}: {found}")
    return found


def _milliseconds(done: Generation) -> float:
    """Milliseconds a token after the first one."""
    assert done.metrics.tpot_ms is not None
    return done.metrics.tpot_ms


if __name__ == "__main__":
    main()
