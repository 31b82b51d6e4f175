"""What every worker shares, standard library only: one JSON task on standard input, one JSON answer as the last line on standard output.

A task: {"mode": "speed" | "logits", "package": folder, "threads": n or null, "cpus": [..], ...}; each worker says what it reads.
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
    """The timed part, the same for all: a warm-up of each, then repeats.

    Args:
        task: "prefill_ids", "decode_ids", "new_tokens", "repeats".
        prefill: runs a prompt up to its first new token.
        decode: runs a prompt and that many new tokens; returns tokens/s from the first new token to the last.
    """
    ids, prompt, count = task["prefill_ids"], task["decode_ids"], task["new_tokens"]
    prefill(ids)
    decode(prompt, count)
    waited, started = _waited(), time.perf_counter()
    ttft = [_milliseconds(lambda: prefill(ids)) for _ in range(task["repeats"])]
    rates = [decode(prompt, count) for _ in range(task["repeats"])]
    share = (_waited() - waited) / (time.perf_counter() - started)
    return {"ttft_ms": ttft, "decode_tokens_per_second": rates, "waiting_share": share}


def _milliseconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _waited() -> float:
    """Seconds that this process's threads were ready and had no core (Linux scheduler statistics): what others on the machine cost us."""
    total = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):
            total += int(file.read_text(encoding="ascii").split()[1])
    return total / 1e9
