"""An encoder-decoder's speed, its divergence from the reference, and what a wide beam search of a long source takes in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Contender, Entered, run_worker
from rounds import Rounds, Say, measure_in_turn
from seq2seq import Vocabulary
from translating import Ids, rate_key

from edgelm_export.quality import Divergence

SOURCE_TOKENS, NEW_TOKENS = 64, 64
SETTINGS = ((1, 1), (1, 4), (16, 1), (16, 4))  # batch, beams
PAIRS = 4  # of source and target that divergence is measured on
LONG_SOURCE, MEMORY_BEAMS = 512, (1, 8)
REPEATS = 2

_SEED = 0


@dataclass(frozen=True)
class Bench:
    """What all measurements of one checkpoint share: who takes part, ids to draw from, cores to run on, progress."""

    entered: Entered
    vocabulary: Vocabulary
    cpus: Sequence[int]
    say: Say

    def sources(self, count: int, tokens: int) -> list[Ids]:
        """Random sources with their end tokens; the same ones each time."""
        ids = np.random.default_rng(_SEED).choice(self.vocabulary.plain, (count, tokens - 1))
        return [[*row, self.vocabulary.end] for row in ids.tolist()]

    def targets(self, count: int, tokens: int) -> list[Ids]:
        """Random targets, from their first token on; other ids than the sources'."""
        ids = np.random.default_rng(_SEED + 1).choice(self.vocabulary.plain, (count, tokens - 1))
        return [[self.vocabulary.start, *row] for row in ids.tolist()]


def measure_speed(bench: Bench, rounds: int) -> Rounds:
    """Target tokens a second, encoder included, for each setting."""
    task = {
        "mode": "speed",
        "cpus": list(bench.cpus),
        "sources": bench.sources(2 * max(batch for batch, _ in SETTINGS), SOURCE_TOKENS),
        "settings": SETTINGS,
        "new_tokens": NEW_TOKENS,
        "repeats": REPEATS,
    }
    return measure_in_turn(bench.entered, task, rounds, _describe, bench.say)


def _describe(result: Mapping[str, Any]) -> str:
    rates = (f"{batch}x{beams} {result[rate_key(batch, beams)]:6.1f}" for batch, beams in SETTINGS)
    return f"tokens/s at batch x beams: {'   '.join(rates)}"


def measure_divergence(bench: Bench, reference: tuple[Contender, Path]) -> dict[str, dict[str, float | int]]:
    """Divergence of each contender's teacher-forced logits from the reference's, over all positions of random targets."""
    targets = bench.targets(PAIRS, NEW_TOKENS)
    expected = _logits(bench, reference, targets)
    reports: dict[str, dict[str, float | int]] = {}
    for name, entry in bench.entered.items():
        divergence = Divergence()
        for theirs, found, target in zip(expected, _logits(bench, entry, targets), targets, strict=True):
            # CTranslate2 drops Marian's padding token, the last of its vocabulary.
            divergence.add(theirs[:, : found.shape[-1]], found, target[1:])
        reports[name] = divergence.report()
        bench.say(f"{name:<26} mean KL divergence {reports[name]['mean_kld']:.6f}")
    return reports


def _logits(bench: Bench, entry: tuple[Contender, Path], targets: list[Ids]) -> Any:
    contender, package = entry
    with tempfile.TemporaryDirectory(prefix="edgelm-logits.") as folder:
        file = Path(folder) / "logits.npy"
        task = {"mode": "logits", "package": str(package), "cpus": list(bench.cpus), "logits_file": str(file)}
        run_worker(contender, {**task, "sources": bench.sources(PAIRS, SOURCE_TOKENS), "targets": targets})
        return np.load(file)


def measure_memory(bench: Bench) -> dict[str, dict[str, dict[str, float]]]:
    """Peak resident memory of one search, by number of beams; of ours also the bytes of what the encoder made of the source."""
    (source,) = bench.sources(1, LONG_SOURCE)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, (contender, package) in bench.entered.items():
        task = {"mode": "memory", "package": str(package), "cpus": list(bench.cpus), "source": source}
        found[name] = {
            str(beams): run_worker(contender, {**task, "beams": beams, "new_tokens": NEW_TOKENS})
            for beams in MEMORY_BEAMS
        }
        peaks = (f"{beams} beams {one['peak_rss_mib']:.0f} MiB" for beams, one in found[name].items())
        bench.say(f"{name:<26} {', '.join(peaks)}")
    return found
