"""Runs an encoder-decoder in PyTorch, float32, through transformers' generate. Reads translating.py's keys."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from protocol import read_task
from transformers import AutoModelForSeq2SeqLM
from translating import Ids, serve


def main() -> None:
    task = read_task()
    torch.set_num_threads(task["threads"])
    start = time.perf_counter()
    model = AutoModelForSeq2SeqLM.from_pretrained(Path(task["package"]), dtype=torch.float32, local_files_only=True)
    model.eval()
    load_s = time.perf_counter() - start

    def generate(sources: list[Ids], beams: int, count: int) -> list[Ids]:
        ids = torch.tensor(sources)
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=beams,
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
            )
        return found[:, 1:].tolist()

    def logits(source: Ids, target: Ids) -> Any:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0].numpy()

    serve(task, load_s, generate, logits)


if __name__ == "__main__":
    main()
