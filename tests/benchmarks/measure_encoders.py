"""A sentence encoder's speed, how far its embeddings are from the reference's, and what they are worth to a classifier."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Contender, Entered, run_worker
from numpy.typing import NDArray
from probe import probe_accuracy
from protocol import ORDERS, rate_key
from rounds import Rounds, Say, measure_in_turn

BATCH_SIZE = 32

Embeddings = NDArray[np.float32]


def measure_throughput(
    entered: Entered, mixes: Mapping[str, Sequence[str]], cpus: Sequence[int], rounds: int, say: Say
) -> Rounds:
    """Texts a second of each mix of lengths, from text to embedding, tokenizing included, in the given order and sorted by length."""
    task = {"mode": "speed", "cpus": list(cpus), "mixes": dict(mixes), "batch_size": BATCH_SIZE, "repeats": 3}

    def describe(result: Mapping[str, Any]) -> str:
        best = {mix: max(result.get(rate_key(mix, order), 0) for order in ORDERS) for mix in mixes}
        return "   ".join(f"{mix} {rate:6.1f}/s" for mix, rate in best.items())

    return measure_in_turn(entered, task, rounds, describe, say)


def measure_drift(
    entered: Entered, reference: tuple[Contender, Path], texts: Sequence[str], cpus: Sequence[int], say: Say
) -> dict[str, dict[str, float]]:
    """Cosine of each contender's embeddings with the reference's of the same text: mean and worst."""
    expected = embed(reference, texts, cpus)
    reports: dict[str, dict[str, float]] = {}
    for name, entry in entered.items():
        cosine = (embed(entry, texts, cpus).astype(np.float64) * expected).sum(1)
        reports[name] = {"mean_cosine": float(cosine.mean()), "worst_cosine": float(cosine.min())}
        say(f"{name:<26} cosine {cosine.mean():.6f}, worst {cosine.min():.6f}")
    return reports


def measure_probe(
    entered: Entered, texts: Sequence[str], labels: Sequence[bool], cpus: Sequence[int], say: Say
) -> dict[str, float]:
    """Accuracy of a classifier on each contender's embeddings, trained on one half of the texts and tested on the other, both ways."""
    accuracy: dict[str, float] = {}
    for name, entry in entered.items():
        accuracy[name] = probe_accuracy(embed(entry, texts, cpus), np.array(labels))
        say(f"{name:<26} spam or ham: accuracy {accuracy[name]:.2%}")
    return accuracy


def embed(entry: tuple[Contender, Path], texts: Sequence[str], cpus: Sequence[int]) -> Embeddings:
    """Embeddings by a contender's worker, float32 [len(texts), dim]."""
    contender, package = entry
    with tempfile.TemporaryDirectory(prefix="edgelm-embeddings.") as folder:
        file = Path(folder) / "embeddings.npy"
        task = {"mode": "embed", "package": str(package), "cpus": list(cpus), "texts": list(texts)}
        run_worker(contender, {**task, "batch_size": BATCH_SIZE, "embeddings_file": str(file)})
        return np.load(file)
