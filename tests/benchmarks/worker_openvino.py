"""Runs an encoder in OpenVINO. Reads encoding.py's keys, and "hint": its performance hint, LATENCY or THROUGHPUT."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import openvino
from encoding import in_batches, load_tokenizer, mean_pool, serve, token_arrays
from protocol import read_task


def main() -> None:
    task = read_task()
    folder = Path(task["package"])
    start = time.perf_counter()
    settings = {"INFERENCE_NUM_THREADS": task["threads"], "PERFORMANCE_HINT": task["hint"]}
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", settings)
    tokenizer = load_tokenizer(folder)
    load_s = time.perf_counter() - start
    own = threading.local()

    def encode(texts: list[str]) -> object:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        arrays = token_arrays(tokenizer, texts)
        hidden = own.request.infer(arrays, share_inputs=True, share_outputs=True)[0]
        return mean_pool(hidden, arrays["attention_mask"])

    at_a_time = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    serve(task, load_s, in_batches(task, encode, at_a_time))


if __name__ == "__main__":
    main()
