"""What every worker shares, standard library only: one JSON task on standard input, one JSON answer as the last line on standard output.

A task: {"mode": ..., "package": folder, "threads": n or null, "cpus": [..], ...}; each worker says what else it reads.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# Tokens. What is longer takes seconds, so a process warms up with no more and measures it once instead of repeating it.
_LONG = 1024


def read_task() -> dict[str, Any]:
    """The task, with this process already confined to its cores."""
    task = json.load(sys.stdin)
    if task["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, task["cpus"])
    return task


def answer(values: dict[str, Any]) -> None:
    """Hands the result to the caller, and leaves at once: a peer that crashes while it is torn down must not lose a figure."""
    values["peak_rss_mib"] = peak_rss_mib()
    sys.stdout.write("\n" + json.dumps(values) + "\n")
    sys.stdout.flush()
    os._exit(0)


def peak_rss_mib() -> float:
    """Peak resident memory of this process. VmHWM, because ru_maxrss begins with what the parent had before exec."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    scale = 1024 if sys.platform != "darwin" else 1024 * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def speed(
    task: dict[str, Any],
    prefill: Callable[[list[int]], None],
    decode: Callable[[list[int], int], float],
) -> dict[str, Any]:
    """The timed part, the same for all: a warm-up, then repeats.

    Args:
        task: "ids", "prompts" and "contexts" (numbers of them to begin with), "new_tokens", "repeats".
        prefill: runs a prompt up to its first new token.
        decode: runs a context and that many new tokens; returns tokens/s from the first new token to the last.
    """
    ids, count = task["ids"], task["new_tokens"]
    figures: dict[str, list[float]] = {}
    prefill(ids[: min(max(task["prompts"]), _LONG)])
    decode(ids[: min(task["contexts"])], count)

    def repeat() -> None:
        for number in range(task["repeats"]):
            longest = _LONG if number else len(ids)
            for length in (length for length in task["prompts"] if length <= longest):
                figures.setdefault(ttft_key(length), []).append(_milliseconds(lambda n=length: prefill(ids[:n])))
            for length in (length for length in task["contexts"] if length <= longest):
                figures.setdefault(decode_key(length), []).append(decode(ids[:length], count))

    share = waiting_share(repeat)
    return {**figures, "waiting_share": share}


def ttft_key(prompt_tokens: int) -> str:
    """What the time to the first token of such a prompt is called in an answer."""
    return f"ttft_{prompt_tokens}_ms"


# The order that a sentence encoder's texts are batched in: as they come, or sorted by length first. edgelm sorts them itself.
ORDERS = ("given", "sorted")


def rate_key(mix: str, order: str) -> str:
    """What the texts a second of a mix of lengths, in an order, are called."""
    return f"{mix}_{order}_sentences_per_second"


def decode_key(context: int) -> str:
    """What the speed of steps after such a context is called."""
    return f"decode_{context}_tokens_per_second"


def waiting_share(call: Callable[[], None]) -> float:
    """Runs the call; how long threads of this process were ready and had no core because something else used it, over the call's time.

    Threads of one process wait for each other as well, so no more of it is blamed on others than the time they had.
    """
    waited, others, started = _waited(), _used_by_others(), time.perf_counter()
    call()
    elapsed = time.perf_counter() - started
    return max(0.0, min(_waited() - waited, _used_by_others() - others)) / elapsed


def _milliseconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _waited() -> float:
    """Seconds that threads of this process were ready and had no core (Linux scheduler statistics)."""
    total = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):
            total += int(file.read_text(encoding="ascii").split()[1])
    return total / 1e9


def _used_by_others() -> float:
    """Seconds that our cores were busy, but for what this process used of them."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = 0
        for name, *fields in map(str.split, filter(None, lines)):
            if name in ours:
                # user, nice, system, idle, iowait, irq, softirq, steal
                ticks += sum(map(int, fields[:8])) - int(fields[3]) - int(fields[4])
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
