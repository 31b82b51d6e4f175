"""Runs a GGUF file with llama.cpp, greedily, through its C interface. Reads protocol.speed's keys, or "logits_ids" and "logits_file"."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from protocol import answer, read_task, speed


class Decoder:
    """One sequence on one context."""

    def __init__(self, file: Path, threads: int, context: int) -> None:
        llama_cpp.llama_backend_init()
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        # Its own sizes of batches, which are its fastest here too.
        settings.n_ctx = context
        settings.n_threads = settings.n_threads_batch = threads
        self._batch = int(settings.n_batch)
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def clear(self) -> None:
        """Forgets everything."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def feed(self, ids: Sequence[int]) -> int:
        """Appends tokens; the most likely one to follow them."""
        for start in range(0, len(ids), self._batch):
            piece = ids[start : start + self._batch]
            tokens = (llama_cpp.llama_token * len(piece))(*piece)
            self._run(llama_cpp.llama_batch_get_one(tokens, len(piece)))
        return int(self._logits(-1).argmax())

    def all_logits(self, ids: Sequence[int]) -> Any:
        """Logits after each token, [tokens, vocab_size], of an empty sequence."""
        self.clear()
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        self._run(batch)
        return np.stack([self._logits(i).copy() for i in range(len(ids))])

    def _run(self, batch: Any) -> None:
        if llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError("llama.cpp failed")

    def _logits(self, position: int) -> Any:
        logits = llama_cpp.llama_get_logits_ith(self._context, position)
        return np.ctypeslib.as_array(logits, shape=(self._vocab_size,))


def main() -> None:
    task = read_task()
    start = time.perf_counter()
    speed_task = task["mode"] == "speed"
    longest = max(*task["prompts"], *task["contexts"]) if speed_task else len(task["logits_ids"])
    room = longest + task.get("new_tokens", 0) + 1
    decoder = Decoder(Path(task["package"]) / "model.gguf", task["threads"], room)
    load_s = time.perf_counter() - start
    if not speed_task:
        np.save(task["logits_file"], decoder.all_logits(task["logits_ids"]))
        answer({"load_s": load_s})

    def prefill(ids: list[int]) -> None:
        decoder.clear()
        decoder.feed(ids)

    def decode(ids: list[int], count: int) -> float:
        decoder.clear()
        token = decoder.feed(ids)
        begun = time.perf_counter()
        for _ in range(count):
            token = decoder.feed([token])
        return count / (time.perf_counter() - begun)

    answer({"load_s": load_s, **speed(task, prefill, decode)})


if __name__ == "__main__":
    main()
