"""What workers of encoder-decoders share, standard library and numpy only: the timed part, teacher-forced logits, one long beam search.

A task: {"mode": "speed", "sources": [ids, ..], "settings": [[batch, beams], ..], "new_tokens": n, "repeats": n},
{"mode": "logits", "sources": [ids, ..], "targets": [ids, ..], "logits_file": path}, or
{"mode": "memory", "source": ids, "beams": n, "new_tokens": n}.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from protocol import answer, waiting_share

Ids = list[int]
# (sources, beams, new tokens) -> the new tokens of each source, as many as asked for: nothing may end earlier.
Generate = Callable[[list[Ids], int, int], Sequence[Sequence[Any]]]
# (source, target) -> logits [len(target), vocabulary] by a decoder that is fed the target.
Logits = Callable[[Ids, Ids], Any]

WARM_UP_TOKENS = 16


def serve(task: dict[str, Any], load_s: float, generate: Generate, logits: Logits, **facts: Callable[[], Any]) -> None:
    """Answers the task; `facts` are asked once a memory task is done."""
    if task["mode"] == "logits":
        np.save(task["logits_file"], [logits(*pair) for pair in zip(task["sources"], task["targets"], strict=True)])
        answer({"load_s": load_s})
    if task["mode"] == "memory":
        _checked(generate, [task["source"]], task["beams"], task["new_tokens"])
        answer({"load_s": load_s, **{name: fact() for name, fact in facts.items()}})
    answer({"load_s": load_s, **_speed(task, generate)})


def rate_key(batch: int, beams: int) -> str:
    """What the speed of a setting is called in an answer."""
    return f"batch_{batch}_beams_{beams}_tokens_per_second"


def _speed(task: dict[str, Any], generate: Generate) -> dict[str, Any]:
    """Target tokens a second, of the results only: beams are work, not tokens. A warm-up, then repeats."""
    settings, count = task["settings"], task["new_tokens"]
    rates: dict[str, list[float]] = {rate_key(*setting): [] for setting in settings}
    for batch, beams in settings:
        _checked(generate, task["sources"][:batch], beams, WARM_UP_TOKENS)
    ahead = _endless(task["sources"])

    def repeat() -> None:
        for _ in range(task["repeats"]):
            for batch, beams in settings:
                sources = [next(ahead) for _ in range(batch)]
                start = time.perf_counter()
                _checked(generate, sources, beams, count)
                rates[rate_key(batch, beams)].append(batch * count / (time.perf_counter() - start))

    return {**rates, "waiting_share": waiting_share(repeat)}


def _endless(sources: list[Ids]) -> Iterator[Ids]:
    while True:
        yield from sources


def _checked(generate: Generate, sources: list[Ids], beams: int, count: int) -> None:
    lengths = {len(tokens) for tokens in generate(sources, beams, count)}
    if lengths != {count}:
        raise RuntimeError(f"{count} new tokens were asked for, and there are {sorted(lengths)}")
