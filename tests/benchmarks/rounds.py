"""Rounds of A B A B: every contender once a round, in turn, each time in a fresh process on the same cores."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contenders import Contender, Entered, run_worker

# A worker that waited longer than this share of its time for a core measured its neighbours; it is asked again this often.
DISTURBED, ATTEMPTS = 0.02, 3

Say = Callable[[str], None]
Rounds = dict[str, list[dict[str, Any]]]


def measure_in_turn(
    entered: Entered, task: Mapping[str, Any], rounds: int, describe: Callable[[Mapping[str, Any]], str], say: Say
) -> Rounds:
    """What each worker answered, round by round; a list of figures in an answer becomes its median.

    Args:
        entered: who is measured.
        task: the same for all, but for the package.
        rounds: how often.
        describe: an answer in half a line.
        say: progress.
    """
    results: Rounds = {name: [] for name in entered}
    for number in range(rounds):
        for name, (contender, package) in entered.items():
            result = _undisturbed(contender, {**task, "package": str(package)})
            results[name].append(result)
            waiting = f"waiting {result['waiting_share']:.1%}"
            say(f"round {number + 1}/{rounds} {name:<26} {describe(result)}   {waiting}")
    return results


def summarize(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Median, least and greatest of each figure."""
    return {key: _spread([result[key] for result in rounds]) for key in rounds[0] if key != "attempts"}


def _undisturbed(contender: Contender, task: Mapping[str, Any]) -> dict[str, Any]:
    tries: list[dict[str, Any]] = []
    while len(tries) < ATTEMPTS and (not tries or tries[-1]["waiting_share"] > DISTURBED):
        tries.append(run_worker(contender, task))
    best = min(tries, key=lambda result: result["waiting_share"])
    medians = {key: statistics.median(value) if isinstance(value, list) else value for key, value in best.items()}
    return {**medians, "attempts": len(tries)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }
