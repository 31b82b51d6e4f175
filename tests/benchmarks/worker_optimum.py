"""Runs an encoder through Optimum's ORTModelForFeatureExtraction. Reads encoding.py's keys."""

from __future__ import annotations

import time
from pathlib import Path

from encoding import in_batches, load_tokenizer, mean_pool, serve, token_arrays
from onnxruntime import SessionOptions
from optimum.onnxruntime import ORTModelForFeatureExtraction
from protocol import read_task


def main() -> None:
    task = read_task()
    folder = Path(task["package"])
    start = time.perf_counter()
    options = SessionOptions()
    options.intra_op_num_threads = task["threads"]
    model = ORTModelForFeatureExtraction.from_pretrained(folder, session_options=options)
    tokenizer = load_tokenizer(folder)
    load_s = time.perf_counter() - start

    def encode(texts: list[str]) -> object:
        arrays = token_arrays(tokenizer, texts)
        return mean_pool(model(**arrays).last_hidden_state, arrays["attention_mask"])

    serve(task, load_s, in_batches(task, encode))


if __name__ == "__main__":
    main()
