"""How long one generation took: the moments the loop reports in, one frozen set of figures out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Metrics:
    """Figures of one generation; None where there is nothing to measure.

    `cached_tokens` of the prompt were taken over from an earlier request, and `prefill_tokens_per_second` counts the others.
    `ttft_ms` is the time from the request, its wait in the queue included, to the first token, `tpot_ms` the mean time of
    each token after it, and `decode_tokens_per_second` counts those tokens too. `peak_memory_mib` is the highest resident
    memory of the process so far. `decode_steps` are the calls of the program after the prompt: one a token, but none for the
    `accepted_tokens`, those of the `drafted_tokens` of speculative decoding that came true.
    """

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    ttft_ms: float | None
    tpot_ms: float | None
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    peak_memory_mib: float | None
    decode_steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, ready for JSON."""
        return asdict(self)


class Recorder:
    """Notes the moments of one generation; it starts when it is made.

    Call `begin` when the prompt leaves the queue, if there is one, `prefilled` when the prompt's logits are there, `drafted` and
    `chosen` as it goes on, `token` for each chosen token that belongs to the result, and `finish` once at the end.
    """

    def __init__(self, prompt_tokens: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = self._new_tokens = self._choices = self._drafted = self._accepted = 0
        self._prefilled: float | None = None
        self._first = self._last = self._begun = self._start = clock()

    def begin(self, cached_tokens: int) -> None:
        """The prompt is fed from now on, but for so many tokens that are in the cache."""
        self._begun, self._cached_tokens = self._clock(), cached_tokens

    def prefilled(self) -> None:
        """The prompt is in the cache."""
        self._prefilled = self._clock()

    def drafted(self, count: int) -> None:
        """So many tokens were guessed."""
        self._drafted += count

    def chosen(self, *, accepted: bool = False) -> None:
        """The logits after the prompt, or after a step, led to a choice; or those of a guess that came true."""
        self._choices += 1
        self._accepted += accepted

    def token(self) -> None:
        """One more token is chosen."""
        self._last = self._clock()
        self._new_tokens += 1
        if self._new_tokens == 1:
            self._first = self._last

    def finish(self) -> Metrics:
        """The figures so far."""
        later, decode = self._new_tokens - 1, self._last - self._first
        prefill = None if self._prefilled is None else self._prefilled - self._begun
        fed = self._prompt_tokens - self._cached_tokens
        return Metrics(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            new_tokens=self._new_tokens,
            ttft_ms=(self._first - self._start) * 1000 if self._new_tokens else None,
            tpot_ms=decode / later * 1000 if later > 0 else None,
            prefill_tokens_per_second=fed / prefill if prefill else None,
            decode_tokens_per_second=later / decode if later > 0 and decode > 0 else None,
            peak_memory_mib=peak_memory_mib(),
            decode_steps=max(0, self._choices - 1 - self._accepted),
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
        )


def peak_memory_mib(status: Path = Path("/proc/self/status")) -> float | None:
    """The highest resident memory this process had, in MiB; None where the system does not tell (Windows)."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)  # macOS counts bytes, others KiB
