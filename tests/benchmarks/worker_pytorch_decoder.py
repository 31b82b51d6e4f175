"""Runs a decoder in PyTorch through transformers, greedily. Reads protocol.speed's keys, or "logits_ids" and "logits_file".

"dtype" is what its weights are loaded as.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from protocol import answer, read_task, speed
from transformers import AutoModelForCausalLM


def main() -> None:
    task = read_task()
    torch.set_num_threads(task["threads"])
    start = time.perf_counter()
    dtype = getattr(torch, task["dtype"])
    model = AutoModelForCausalLM.from_pretrained(Path(task["package"]), dtype=dtype, local_files_only=True).eval()
    load_s = time.perf_counter() - start
    with torch.inference_mode():
        if task["mode"] == "logits":
            np.save(task["logits_file"], model(torch.tensor([task["logits_ids"]])).logits[0].float().numpy())
            answer({"load_s": load_s})

        def prefill(ids: list[int]) -> None:
            model(torch.tensor([ids]), use_cache=True, logits_to_keep=1).logits.argmax(-1)

        def decode(ids: list[int], count: int) -> float:
            out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
            begun = time.perf_counter()
            for _ in range(count):
                token = out.logits[:, -1:].argmax(-1)
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
            out.logits.argmax(-1)
            return count / (time.perf_counter() - begun)

        answer({"load_s": load_s, **speed(task, prefill, decode)})


if __name__ == "__main__":
    main()
