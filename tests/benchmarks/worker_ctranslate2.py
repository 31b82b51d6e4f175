"""Runs an encoder in CTranslate2. Reads encoding.py's keys, and "batches_at_a_time", which share the threads."""

from __future__ import annotations

import time
from pathlib import Path

import ctranslate2
import numpy as np
from encoding import in_batches, load_tokenizer, mean_pool, serve, token_arrays
from protocol import read_task


def main() -> None:
    task = read_task()
    at_a_time = task["batches_at_a_time"]
    start = time.perf_counter()
    model = ctranslate2.Encoder(
        task["package"],
        device="cpu",
        compute_type="int8",
        inter_threads=at_a_time,
        intra_threads=task["threads"] // at_a_time,
    )
    tokenizer = load_tokenizer(Path(task["package"]))
    load_s = time.perf_counter() - start

    def encode(texts: list[str]) -> object:
        arrays = token_arrays(tokenizer, texts)
        ids, mask = arrays["input_ids"].astype(np.int32), arrays["attention_mask"]
        lengths = mask.sum(1).astype(np.int32)
        found = model.forward_batch(
            ctranslate2.StorageView.from_array(ids), lengths=ctranslate2.StorageView.from_array(lengths)
        )
        return mean_pool(np.asarray(found.last_hidden_state), mask)

    serve(task, load_s, in_batches(task, encode, at_a_time))


if __name__ == "__main__":
    main()
