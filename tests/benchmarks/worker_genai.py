"""Runs an onnxruntime-genai folder through its Python API. Reads the same keys as worker_edgelm.py.

"threads": null keeps the thread count that genai chooses by itself. Tokens are not turned into text, which edgelm's worker does.
"""

from __future__ import annotations

import json
import os
import time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library is loaded

import numpy as np
import onnxruntime_genai as og
from protocol import answer, read_task, speed


def main() -> None:
    task = read_task()
    start = time.perf_counter()
    config = og.Config(task["package"])
    if task["threads"] is not None:
        options = {"intra_op_num_threads": task["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = og.Model(config)
    load_s = time.perf_counter() - start

    def generator(ids: list[int], new_tokens: int) -> og.Generator:
        params = og.GeneratorParams(model)
        length = len(ids) + new_tokens
        # The cache is sized by max_length; min_length keeps an end token from cutting a measurement short.
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        running = og.Generator(model, params)
        running.append_tokens(np.array(ids, np.int32))
        return running

    if task["mode"] == "logits":
        logits = generator(task["logits_ids"], 1).get_output("logits")[0]
        np.save(task["logits_file"], np.asarray(logits, np.float32))
        answer({"load_s": load_s})

    def prefill(ids: list[int]) -> None:
        running = generator(ids, 1)
        running.generate_next_token()
        running.get_next_tokens()

    def decode(ids: list[int], count: int) -> float:
        running = generator(ids, count + 1)
        running.generate_next_token()
        running.get_next_tokens()
        start = time.perf_counter()
        for _ in range(count):
            running.generate_next_token()
            running.get_next_tokens()
        return count / (time.perf_counter() - start)

    answer({"load_s": load_s, **speed(task, prefill, decode)})


if __name__ == "__main__":
    main()
