"""Runs an encoder-decoder in CTranslate2. Reads translating.py's keys, and "batches_at_a_time", which share the threads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from protocol import read_task
from tokenizers import Tokenizer
from translating import Ids, serve


def main() -> None:
    task = read_task()
    at_a_time = task["batches_at_a_time"]
    start = time.perf_counter()
    model = ctranslate2.Translator(
        task["package"],
        device="cpu",
        compute_type="int8",
        inter_threads=at_a_time,
        intra_threads=task["threads"] // at_a_time,
    )
    tokenizer = Tokenizer.from_file(str(Path(task["package"]) / "tokenizer.json"))
    load_s = time.perf_counter() - start

    def tokens(ids: Ids) -> list[str]:
        return [tokenizer.id_to_token(i) for i in ids]

    def generate(sources: list[Ids], beams: int, count: int) -> list[list[str]]:
        found = model.translate_batch(
            [tokens(ids) for ids in sources],
            beam_size=beams,
            min_decoding_length=count,
            max_decoding_length=count,
            max_batch_size=-(-len(sources) // at_a_time),
        )
        return [one.hypotheses[0] for one in found]

    def logits(source: Ids, target: Ids) -> Any:
        """One position a call: what comes after each beginning of the target."""
        rows: list[Any] = []
        for count in range(len(target)):
            found = model.translate_batch(
                [tokens(source)],
                target_prefix=[tokens(target[1 : count + 1])],
                beam_size=1,
                min_decoding_length=0,
                max_decoding_length=count + 1,
                return_logits_vocab=True,
            )
            rows.append(np.asarray(found[0].logits[0][-1]).reshape(-1))
        return np.stack(rows)

    serve(task, load_s, generate, logits)


if __name__ == "__main__":
    main()
