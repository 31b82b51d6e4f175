"""`make bench`, encoders: sentences a second beside cosine, against peers in their own environments, and a linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from contenders import enter
from encoders import CALIBRATION_SENTENCES, REFERENCE, encoders
from machine import machine, pick_cpus
from measure_encoders import BATCH_SIZE, measure_drift, measure_probe, measure_throughput
from results import RESULTS, say, write
from rounds import summarize

from tests.downloads import MINILM, SPEECHES, Unavailable
from tests.real_text import emails, length_mixes, sentences

# An e-mail is cut to this many characters before the tokenizer cuts it to what the model takes.
EMAIL_CHARACTERS = 2000


@click.command()
@click.argument("names", nargs=-1)
@click.option("--rounds", default=5, show_default=True, help="How often each contender is measured.")
@click.option("--threads", default=2, show_default=True, help="Threads, and cores all workers are pinned to.")
@click.option(
    "--speed-texts", default=256, show_default=True, help="Texts of each mix of lengths that speed is measured on."
)
@click.option("--quality-sentences", default=200, show_default=True, help="Others that cosines are taken of.")
@click.option("--probe-emails", default=4000, show_default=True, help="For the linear probe; 0 leaves it out.")
@click.option("--output", type=click.Path(path_type=Path), help="Result file. [default: docs/benchmarks/encoders.json]")
def main(names: tuple[str, ...], rounds: int, threads: int, output: Path | None, **sizes: int) -> None:
    """Measure the contenders NAMES (default: all) in turn and write the results."""
    known = encoders(threads)
    try:
        checkpoint = MINILM.fetch()
        everything = enter([*(names or known), REFERENCE], known, checkpoint, say)
        mixes, quality = length_mixes(sizes["speed_texts"]), sentences("quality", sizes["quality_sentences"])
        texts, labels = emails(sizes["probe_emails"], EMAIL_CHARACTERS) if sizes["probe_emails"] else ([], [])
    except Unavailable as error:
        raise click.ClickException(str(error)) from error
    entered = {name: everything[name] for name in names or known}
    cpus = pick_cpus(threads)
    drift = measure_drift(entered, everything[REFERENCE], quality, cpus, say)
    probed = {name: entry for name, entry in entered.items() if name.startswith("edgelm")} if texts else {}
    accuracy = measure_probe(probed, texts, labels, cpus, say)
    results = measure_throughput(entered, mixes, cpus, rounds, say)
    values = {
        "what": "encoders",
        "machine": machine(),
        "command": " ".join(["python tests/benchmarks/run_encoders.py", *names, f"--rounds {rounds}"]),
        "model": {"name": "all-MiniLM-L6-v2", "source": f"pypi:{MINILM.requirement}"},
        "settings": {"threads": threads, "rounds": rounds, **sizes, **_settings(mixes)},
        "probe": {"emails": len(texts), "spam": sum(labels), "accuracy": accuracy},
        "contenders": {
            name: {
                **contender.facts(package),
                "quality": drift[name],
                "summary": summarize(results[name]),
                "rounds": results[name],
            }
            for name, (contender, package) in entered.items()
        },
    }
    write(values, output or RESULTS / "encoders.json")


def _settings(mixes: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "batch_size": BATCH_SIZE,
        "text": f"npm:{SPEECHES.requirement}",
        "mixes": {mix: _lengths(texts) for mix, texts in mixes.items()},
        "calibration_sentences": CALIBRATION_SENTENCES,
    }


def _lengths(texts: list[str]) -> dict[str, int]:
    lengths = sorted(map(len, texts))
    return {"shortest": lengths[0], "median": lengths[len(lengths) // 2], "longest": lengths[-1]}


if __name__ == "__main__":
    main()
