"""Runs a decoder in CTranslate2, greedily. Reads protocol.speed's keys, or "logits_ids" and "logits_file"."""

from __future__ import annotations

import json
import time
from pathlib import Path

import ctranslate2
import numpy as np
from protocol import answer, read_task, speed


def main() -> None:
    task = read_task()
    start = time.perf_counter()
    package = Path(task["package"])
    generator = ctranslate2.Generator(str(package), device="cpu", inter_threads=1, intra_threads=task["threads"])
    load_s = time.perf_counter() - start
    vocabulary = json.loads((package / "vocabulary.json").read_text(encoding="utf-8"))
    if task["mode"] == "logits":
        found = generator.forward_batch([task["logits_ids"]], return_log_probs=False)
        np.save(task["logits_file"], np.asarray(found)[0].astype(np.float32))
        answer({"load_s": load_s})

    def generate(ids: list[int], count: int) -> list[float]:
        """The times at which the new tokens came."""
        times: list[float] = []
        generator.generate_batch(
            [[vocabulary[i] for i in ids]],
            max_length=count,
            min_length=count,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=lambda _: times.append(time.perf_counter()) or False,
        )
        if len(times) != count:
            raise RuntimeError(f"{count} new tokens were asked for, and there are {len(times)}")
        return times

    def prefill(ids: list[int]) -> None:
        generate(ids, 1)

    def decode(ids: list[int], count: int) -> float:
        times = generate(ids, count + 1)
        return count / (times[-1] - times[0])

    answer({"load_s": load_s, **speed(task, prefill, decode)})


if __name__ == "__main__":
    main()
