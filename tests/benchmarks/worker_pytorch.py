"""Runs an encoder in PyTorch, float32, through transformers. Reads encoding.py's keys."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from encoding import in_batches, load_tokenizer, mean_pool, serve, token_arrays
from protocol import read_task
from transformers import AutoModel


def main() -> None:
    task = read_task()
    folder = Path(task["package"])
    torch.set_num_threads(task["threads"])
    start = time.perf_counter()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = load_tokenizer(folder)
    load_s = time.perf_counter() - start

    def encode(texts: list[str]) -> object:
        arrays = token_arrays(tokenizer, texts)
        with torch.inference_mode():
            hidden = model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).last_hidden_state
        return mean_pool(hidden.numpy(), arrays["attention_mask"])

    serve(task, load_s, in_batches(task, encode))


if __name__ == "__main__":
    main()
