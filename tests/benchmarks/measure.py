"""A decoder's speed, and how far it is from the float reference on one text."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Contender, Entered, run_worker
from protocol import decode_key, ttft_key
from rounds import Rounds, Say, measure_in_turn

from edgelm.tokenizer import Tokenizer
from edgelm_export.evaluation import built_in_text
from edgelm_export.quality import TEXT_TOKENS, Divergence

NEW_TOKENS = 64


@dataclass(frozen=True)
class Lengths:
    """Prompts whose first token is waited for, and contexts that steps follow, in tokens."""

    prompts: Sequence[int] = (32, 512, 2048)
    contexts: Sequence[int] = (32, 512, 4096)


def evaluation_ids(package: Path) -> list[int]:
    """The text that `edgelm export` verifies with, as this package's tokenizer cuts it."""
    return Tokenizer.from_folder(package).encode(built_in_text().text)[:TEXT_TOKENS]


def measure_speed(
    entered: Entered, ids: Sequence[int], lengths: Lengths, cpus: Sequence[int], rounds: int, say: Say
) -> Rounds:
    """Time to the first token of prompts, and speed of steps after contexts; `ids` are repeated as often as it takes."""
    longest = max(*lengths.prompts, *lengths.contexts)
    task = {
        "mode": "speed",
        "cpus": list(cpus),
        "ids": (list(ids) * (longest // len(ids) + 1))[:longest],
        **asdict(lengths),
        "new_tokens": NEW_TOKENS,
        "repeats": 2,
    }

    def describe(result: Mapping[str, Any]) -> str:
        prompts = "/".join(f"{result[ttft_key(length)]:.0f}" for length in lengths.prompts)
        contexts = "/".join(f"{result[decode_key(length)]:.0f}" for length in lengths.contexts)
        return f"TTFT {prompts} ms   decode {contexts} tokens/s"

    return measure_in_turn(entered, task, rounds, describe, say)


def measure_divergence(
    entered: Entered, reference: tuple[Contender, Path], ids: Sequence[int], cpus: Sequence[int], say: Say
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
