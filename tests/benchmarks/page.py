"""Pieces that sections of docs/benchmarks.md share: tables, ratios, and what a result says about where it was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def spread(figure: Mapping[str, float] | None, digits: int) -> str:
    """Median with the least and the greatest; empty where it was not measured."""
    if figure is None:
        return ""
    return f"{figure['median']:.{digits}f} ({figure['min']:.{digits}f}-{figure['max']:.{digits}f})"


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Median of above / below, round by round."""
    return f"{statistics.median(ours / theirs for ours, theirs in zip(above, below, strict=True)):.2f}"


def where(result: Mapping[str, Any]) -> str:
    m = result["machine"]
    sets = ", ".join(m["instruction_sets"])
    return f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, {sets}; {m['system']}; {m['date']}; `{result['command']}`."


def heading(title: str, result: Mapping[str, Any]) -> str:
    """A section's, with what tells machines apart: the processor and the last of its instruction sets."""
    found = result["machine"]
    return f"## {title}, {found['processor'].removesuffix(' Processor')} with {found['instruction_sets'][-1]}\n"


def disturbance(contenders: Mapping[str, Mapping[str, Any]]) -> str:
    worst = max(entry["summary"]["waiting_share"]["max"] for entry in contenders.values())
    return f"Of a contender's time at most {worst:.1%} was spent waiting for a core that something else used."


def abouts(contenders: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(f"- `{name}`: {entry['about']}" for name, entry in contenders.items()) + "\n"


def versions(contenders: Mapping[str, Mapping[str, Any]]) -> str:
    seen: dict[str, None] = {}
    for entry in contenders.values():
        seen[", ".join(f"{name} {version}" for name, version in entry["versions"].items())] = None
    return "\n".join(f"- {line}" for line in seen) + "\n"
