"""A sentence encoder's speed, how far its embeddings are from the reference's, and what they are worth to a classifier."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Contender, Entered, run_worker
from encoders import ORDERS
from numpy.typing import NDArray
from probe import probe_accuracy
from rounds import Rounds, Say, measure_in_turn

BATCH_SIZE = 32

Embeddings = NDArray[np.float32]


def measure_throughput(entered: Entered, texts: Sequence[str], cpus: Sequence[int], rounds: int, say: Say) -> Rounds:
    """Sentences a second from text to embedding, tokenizing included, in the given order and sorted by length."""
    task = {"mode": "speed", "cpus": list(cpus), "texts": list(texts), "batch_size": BATCH_SIZE, "repeats": 3}
    return measure_in_turn(entered, task, rounds, _describe, say)


def _describe(result: Mapping[str, Any]) -> str:
    rates = {order: result.get(f"{order}_sentences_per_second") for order in ORDERS}
    return "   ".join(f"{order} {rate:6.1f}/s" if rate else f"{order:<15}" for order, rate in rates.items())


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
