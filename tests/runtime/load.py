"""Threads that share one model and cancel at random: `python -m tests.runtime.load PACKAGE --minutes 10`; the tests run seconds of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

import edgelm
from edgelm.text_generation import DecoderModel

OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "max_new_tokens": 60, "eos_token_id": ()},
    {"temperature": 1.2, "seed": 5, "max_new_tokens": 30, "eos_token_id": ()},
    {"temperature": 0.7, "seed": 6, "top_k": 20, "max_new_tokens": 5, "eos_token_id": ()},
)


@dataclass
class Report:
    """What happened.

    Attributes:
        counts: finish reason -> how many.
        wrong: answers that differ from a single run's.
        resident: MiB, a few times a second.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Resident memory of the last tenth against that after a quarter of the time, as a share."""
        size = max(1, len(self.resident) // 10)
        early = self.resident[len(self.resident) // 4 :][:size]
        return float(np.median(self.resident[-size:]) / np.median(early)) - 1


def hammer(package: Path, seconds: float, threads: int = 4) -> Report:
    """Runs requests from several threads, a third of them cancelled, and compares each with its single run."""
    prompts = [np.random.default_rng(i).integers(3, 128, 2 + 7 * i).tolist() for i in range(8)]
    prompts += [[*prompts[-1][:30], i, 5, 6] for i in range(3, 7)]
    with edgelm.load(package, threads=1, prefix_cache_mib=0) as alone:
        expected = [[alone.generate(prompt, **options).token_ids for options in OPTIONS] for prompt in prompts]
    report, lock, end = Report(), threading.Lock(), time.monotonic() + seconds
    # Little is kept, so that rows are forgotten all the time.
    with edgelm.load(package, threads=1, max_batch=3, prefix_cache_mib=1) as model:

        def work(number: int) -> None:
            random = np.random.default_rng(number)
            while time.monotonic() < end:
                prompt, option = int(random.integers(len(prompts))), int(random.integers(len(OPTIONS)))
                reason, tokens = _ask(model, prompts[prompt], OPTIONS[option], random)
                whole = expected[prompt][option]
                with lock:
                    report.counts[reason] += 1
                    if tokens != (whole if reason == "length" else whole[: len(tokens)]):
                        report.wrong.append(f"prompt {prompt}, options {option}: {tokens} is not {whole}")

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        while time.monotonic() < end:
            report.resident.append(_resident_mib())
            time.sleep(0.2)
        for worker in workers:
            worker.join(timeout=60)
        report.wrong += ["a thread waits for ever" for worker in workers if worker.is_alive()]
    return report


def _ask(
    model: DecoderModel, prompt: list[int], options: dict[str, Any], random: np.random.Generator
) -> tuple[str, list[int]]:
    """One request in one of the ways there are; why it ended, and its tokens."""
    way = int(random.integers(4))
    if way == 0:
        done = model.generate(prompt, **options)
        return done.finish_reason, done.token_ids
    if way == 1:
        chunks = model.stream(prompt, **options)
        for _ in zip(range(int(random.integers(1, 20))), chunks, strict=False):
            pass
        chunks.close()  # type: ignore[attr-defined]
        return "closed", []
    handle = model.submit(prompt, **options)
    if way == 2:
        time.sleep(float(random.exponential(0.005)))
        handle.cancel()
    done = handle.result(timeout=60)
    return done.finish_reason, done.token_ids


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--threads", default=4, show_default=True)
def main(package: Path, minutes: float, threads: int) -> None:
    """Hammer PACKAGE, a tiny one, and tell what happened."""
    report = hammer(package, minutes * 60, threads)
    click.echo(f"{dict(report.counts)}; {len(report.wrong)} wrong; resident memory {report.growth:+.1%}")
    for line in report.wrong[:10]:
        click.echo(line)


if __name__ == "__main__":
    main()
