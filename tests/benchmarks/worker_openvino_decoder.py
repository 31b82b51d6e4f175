"""Runs a decoder in OpenVINO GenAI, greedily. Reads protocol.speed's keys, or "logits_ids" and "logits_file"."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from protocol import answer, read_task, speed


class Clock(openvino_genai.StreamerBase):
    """Notes when tokens come."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def write(self, token: Any) -> openvino_genai.StreamingStatus:
        """One token, or several at once."""
        self.times += [time.perf_counter()] * (1 if isinstance(token, int) else len(token))
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is held back."""


def main() -> None:
    task = read_task()
    folder = Path(task["package"])
    settings = {"INFERENCE_NUM_THREADS": task["threads"], "PERFORMANCE_HINT": "LATENCY"}
    start = time.perf_counter()
    if task["mode"] == "logits":
        np.save(task["logits_file"], logits(folder, settings, task["logits_ids"]))
        answer({"load_s": time.perf_counter() - start})
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # the same prompt comes again and again
    pipeline = openvino_genai.LLMPipeline(folder, "CPU", scheduler_config=scheduler, **settings)
    load_s = time.perf_counter() - start

    def generate(ids: list[int], count: int) -> list[float]:
        config = openvino_genai.GenerationConfig(
            max_new_tokens=count, min_new_tokens=count, ignore_eos=True, do_sample=False
        )
        clock = Clock()
        tokens = openvino.Tensor(np.array([ids], np.int64))
        inputs = openvino_genai.TokenizedInputs(tokens, openvino.Tensor(np.ones((1, len(ids)), np.int64)))
        pipeline.generate(inputs, config, clock)
        if len(clock.times) != count:
            raise RuntimeError(f"{count} new tokens were asked for, and there are {len(clock.times)}")
        return clock.times

    def decode(ids: list[int], count: int) -> float:
        times = generate(ids, count + 1)
        return count / (times[-1] - times[0])

    answer({"load_s": load_s, **speed(task, lambda ids: generate(ids, 1), decode)})


def logits(folder: Path, settings: dict[str, Any], ids: list[int]) -> Any:
    """Those of every position, by the model itself."""
    compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", settings)
    n = len(ids)
    feeds = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, n), np.int64),
        "position_ids": np.arange(n, dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    return np.array(compiled.create_infer_request().infer(feeds)[0])[0]


if __name__ == "__main__":
    main()
