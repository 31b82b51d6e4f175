"""What choosing a token costs: Sampler alone, one thread, on random logits shaped like a language model's, after 1,000 ids."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine, pick_cpus
from results import RESULTS, say, write

from edgelm.constraints import Span, constraints
from edgelm.generation_config import GenerationConfig
from edgelm.sampling import Sampler

PROMPT_TOKENS, NEW_TOKENS = 900, 100

# What disfavours, forbids and forces, all of it.
CHANGES: dict[str, Any] = {
    "logit_bias": {11: 1.0, 12: -1.0, (13, 14): 2.0},
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
    "dry_multiplier": 0.8,
    "dry_sequence_breakers": (10, 20, 30),
    "no_repeat_ngram_size": 4,
    "bad_words_ids": [[5], [6, 7]],
    "suppress_tokens": (8, 9),
    "begin_suppress_tokens": (15,),
    "min_new_tokens": 1000,
    "max_new_tokens": 2000,
    "eos_token_id": (0, 2),
    "forced_eos_token_id": (2,),
    "logits_processors": [lambda ids, logits: logits],
}
FILTERS: dict[str, Any] = {
    "temperature": 0.8,
    "top_n_sigma": 3.0,
    "top_k": 50,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 0.98,
    "epsilon_cutoff": 1e-4,
    "eta_cutoff": 1e-3,
    "xtc_probability": 0.5,
    "dynatemp_range": 0.3,
}
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "temperature, top_k, top_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "temperature, top_p": {"temperature": 0.8, "top_p": 0.95},
    "typical_p": {"typical_p": 0.95},
    "mirostat": {"mirostat_tau": 5.0},
    "every filter": FILTERS,
    "every processor and filter": {**CHANGES, **FILTERS, "temperature": 0.8},
}


@click.command()
@click.option("--rounds", default=20, show_default=True, help="Generations of 100 tokens.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/sampler.json]")
def main(rounds: int, output: Path | None) -> None:
    """Measure the milliseconds a step, median over all steps."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, pick_cpus(1))
    found: dict[str, dict[str, float]] = {}
    for vocab_size in (49_152, 151_936):
        logits = likely_logits(vocab_size)
        found[f"{vocab_size}"] = {name: _milliseconds(options, logits, rounds) for name, options in CASES.items()}
        for name, milliseconds in found[f"{vocab_size}"].items():
            say(f"vocabulary {vocab_size:,}, {name}: {milliseconds:.3f} ms")
    values = {
        "what": "sampler",
        "machine": machine(),
        "command": "python tests/benchmarks/sampler_overhead.py",
        "settings": {"threads": 1, "rounds": rounds, "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS},
        "milliseconds_a_step": found,
    }
    write(values, output or RESULTS / "sampler.json")


def likely_logits(vocab_size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """8 rows [8, vocab_size]: a bell of unlikely tokens, and 40 likely ones in front of it."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2.5, (8, vocab_size)).astype(np.float32)
    for row in logits:
        row[generator.choice(vocab_size, 40, replace=False)] += np.linspace(19, 12, 40, dtype=np.float32)
    return logits


def _milliseconds(options: dict[str, Any], logits: np.ndarray[Any, np.dtype[np.float32]], rounds: int) -> float:
    vocab_size, times = logits.shape[1], list[float]()
    prompt = np.random.default_rng(1).integers(0, vocab_size, PROMPT_TOKENS).tolist()
    for number in range(rounds):
        config = GenerationConfig(**{"seed": number, **options})
        span = Span(len(prompt), len(prompt) + config.max_new_tokens, prompt)
        sampler = Sampler(config, vocab_size, constraints(config, span, vocab_size))
        ids = list(prompt)
        for step in range(NEW_TOKENS):
            row = logits[step % len(logits)]
            before = time.perf_counter()
            token = sampler(ids, row)
            times.append(time.perf_counter() - before)
            ids.append(token)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    main()
