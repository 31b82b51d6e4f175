"""Runs an edgelm package through the public API. Reads protocol.speed's keys, or "logits_ids" and "logits_file"."""

from __future__ import annotations

import time

import numpy as np
from protocol import answer, read_task, speed

import edgelm


def main() -> None:
    task = read_task()
    start = time.perf_counter()
    model = edgelm.load(task["package"], threads=task["threads"], prefix_cache_mib=0)  # each run reads its prompt
    load_s = time.perf_counter() - start
    if task["mode"] == "logits":
        np.save(task["logits_file"], model.logits(task["logits_ids"]))
        answer({"load_s": load_s})

    def prefill(ids: list[int]) -> None:
        model.generate(ids, max_new_tokens=1, temperature=0, eos_token_id=())

    def decode(ids: list[int], count: int) -> float:
        tokens = model.stream(ids, max_new_tokens=count + 1, temperature=0, eos_token_id=())
        times = [time.perf_counter() for _ in tokens]
        return count / (times[-1] - times[0])

    answer({"load_s": load_s, **speed(task, prefill, decode)})


if __name__ == "__main__":
    main()
