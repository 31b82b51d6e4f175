"""Runs a GGUF file with llama.cpp, greedily, through its C interface. Reads protocol.speed's keys."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from protocol import answer, read_task, speed

CONTEXT = 1024


class Decoder:
    """One sequence on one context."""

    def __init__(self, file: Path, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT, CONTEXT, CONTEXT
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def clear(self) -> None:
        """Forgets everything."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def feed(self, ids: Sequence[int]) -> int:
        """Appends tokens; the most likely one to follow them."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama.cpp failed")
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


def main() -> None:
    task = read_task()
    start = time.perf_counter()
    decoder = Decoder(Path(task["package"]) / "model.gguf", task["threads"])
    load_s = time.perf_counter() - start

    def prefill(ids: list[int]) -> None:
        decoder.clear()
        decoder.feed(ids)

    cpu_ms: list[float] = []

    def decode(ids: list[int], count: int) -> float:
        decoder.clear()
        token = decoder.feed(ids)
        begun, used = time.perf_counter(), time.process_time()
        for _ in range(count):
            token = decoder.feed([token])
        cpu_ms.append((time.process_time() - used) / count * 1e3)
        return count / (time.perf_counter() - begun)

    answer({"load_s": load_s, **speed(task, prefill, decode), "decode_cpu_ms": cpu_ms})


if __name__ == "__main__":
    main()
