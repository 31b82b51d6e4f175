"""Rounds of A B A B over contenders, and how far each is from the float reference on one text."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Contender, run_worker

from edgelm.tokenizer import Tokenizer
from edgelm_export.quality import TEXT_TOKENS, Divergence, evaluation_text

PREFILL_TOKENS, PROMPT_TOKENS, NEW_TOKENS = 512, 32, 128

# A worker that waited longer than this share of its time for a core measured its neighbours; it is asked again this often.
DISTURBED, ATTEMPTS = 0.02, 3

Say = Callable[[str], None]
Rounds = dict[str, list[dict[str, Any]]]


def evaluation_ids(package: Path) -> list[int]:
    """The text that `edgelm export` verifies with, as this package's tokenizer cuts it."""
    return Tokenizer.from_folder(package).encode(evaluation_text())[:TEXT_TOKENS]


def measure_speed(
    entered: Mapping[str, tuple[Contender, Path]], ids: Sequence[int], cpus: Sequence[int], rounds: int, say: Say
) -> Rounds:
    """Every contender once a round, in turn, each in a fresh process on the same cores."""
    results: Rounds = {name: [] for name in entered}
    for number in range(rounds):
        for name, (contender, package) in entered.items():
            task = {
                "mode": "speed",
                "package": str(package),
                "cpus": list(cpus),
                "prefill_ids": list(ids[:PREFILL_TOKENS]),
                "decode_ids": list(ids[:PROMPT_TOKENS]),
                "new_tokens": NEW_TOKENS,
                "repeats": 3,
            }
            result = _undisturbed(contender, task)
            results[name].append(result)
            say(
                f"round {number + 1}/{rounds} {name:<24} prefill {result['ttft_ms']:7.1f} ms   "
                f"decode {result['decode_tokens_per_second']:6.1f} tokens/s   waiting {result['waiting_share']:.1%}"
            )
    return results


def _undisturbed(contender: Contender, task: dict[str, Any]) -> dict[str, Any]:
    tries: list[dict[str, Any]] = []
    while len(tries) < ATTEMPTS and (not tries or tries[-1]["waiting_share"] > DISTURBED):
        tries.append(run_worker(contender, task))
    best = min(tries, key=lambda result: result["waiting_share"])
    for key in ("ttft_ms", "decode_tokens_per_second"):
        best[key] = statistics.median(best[key])
    return {**best, "attempts": len(tries)}


def summarize(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median, least and greatest of each figure."""
    keys = ("ttft_ms", "decode_tokens_per_second", "load_s", "peak_rss_mib", "waiting_share")
    return {key: _spread([result[key] for result in rounds]) for key in keys}


def measure_divergence(
    entered: Mapping[str, tuple[Contender, Path]],
    reference: tuple[Contender, Path],
    ids: Sequence[int],
    cpus: Sequence[int],
    say: Say,
) -> dict[str, dict[str, float | int]]:
    """Divergence of each contender's teacher-forced logits from the reference's, over all positions of the text."""
    reports: dict[str, dict[str, float | int]] = {}
    with tempfile.TemporaryDirectory(prefix="edgelm-logits.") as folder:
        expected = _logits(reference, ids, cpus, Path(folder) / "reference.npy")
        for name, entry in entered.items():
            found = _logits(entry, ids, cpus, Path(folder) / "contender.npy")
            divergence = Divergence()
            divergence.add(expected, found, ids[1:])
            reports[name] = divergence.report()
            say(f"{name:<24} mean KL divergence {reports[name]['mean_kld']:.4f}")
    return reports


def _logits(entry: tuple[Contender, Path], ids: Sequence[int], cpus: Sequence[int], file: Path) -> Any:
    contender, package = entry
    task = {"mode": "logits", "package": str(package), "cpus": list(cpus), "logits_ids": list(ids)}
    run_worker(contender, {**task, "logits_file": str(file)})
    return np.load(file, mmap_mode="r")


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }
