"""What edgelm's Python loop adds to a decode step: greedy stream() against bare run_with_iobinding on the same session and lengths."""

from __future__ import annotations

import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from decoders import own_package
from machine import machine, pick_cpus
from measure import evaluation_ids
from results import RESULTS, say, write

import edgelm
from edgelm.text_generation import DecoderModel

PROMPT_TOKENS, NEW_TOKENS = 32, 128


@click.command()
@click.option("--package", type=click.Path(path_type=Path), help="[default: the int4 package of the benchmark's model]")
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=21, show_default=True, help="Pairs of runs, in turn.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: docs/benchmarks/loop.json]")
def main(package: Path | None, model: str, threads: int, rounds: int, output: Path | None) -> None:
    """Measure the loop's share of a decode step."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, pick_cpus(threads))
    package = package or own_package(model, threads)
    loaded = edgelm.load(package, threads=threads, prefix_cache_mib=0)
    prompt = evaluation_ids(package)[:PROMPT_TOKENS]
    bare = BareLoop(loaded, len(prompt) + NEW_TOKENS + 1)
    pairs = [(_stream(loaded, prompt), bare.run(len(prompt), NEW_TOKENS)) for _ in range(rounds + 2)][2:]
    ratios = [ours / theirs for ours, theirs in pairs]
    overhead = statistics.median(ratios) - 1
    say(f"edgelm {_ms(pairs, 0):.3f} ms a token, bare {_ms(pairs, 1):.3f} ms: overhead {overhead:+.1%}")
    values = {
        "what": "loop",
        "machine": machine(),
        "command": "python tests/benchmarks/loop_overhead.py",
        "model": model,
        "settings": {"threads": threads, "rounds": rounds, "prompt_tokens": len(prompt), "new_tokens": NEW_TOKENS},
        "edgelm_ms": round(_ms(pairs, 0), 4),
        "bare_ms": round(_ms(pairs, 1), 4),
        "overhead": {
            "median": round(overhead, 4),
            "quartiles": [round(q - 1, 4) for q in statistics.quantiles(ratios, n=4)[::2]],
        },
    }
    write(values, output or RESULTS / "loop.json")


def _stream(model: DecoderModel, prompt: list[int]) -> float:
    """Seconds a decode step: text, sampling and stopping included."""
    times = [
        time.perf_counter() for _ in model.stream(prompt, max_new_tokens=NEW_TOKENS + 1, temperature=0, eos_token_id=())
    ]
    steps = [after - before for before, after in pairwise(times)]
    return statistics.median(steps)


class BareLoop:
    """The least that can drive the graph: everything bound once, two lengths written before each run, no logits read."""

    def __init__(self, model: DecoderModel, length: int) -> None:
        # The very session that stream() uses: a second one would lie elsewhere in memory, which alone moves a step by 5 %.
        self._session = model._program.session
        self._io = self._session.io_binding()
        self._kept: list[Any] = []
        manifest = model.package.manifest
        self._seqlens_k = self._input("seqlens_k", np.zeros(1, np.int32))
        self._total = self._input("total_sequence_length", np.zeros((), np.int32))
        self._input("input_ids", np.full((1, 1), 100, np.int64))
        self._input("logits_index", np.zeros((1, 1), np.int64))
        self._output("logits", np.zeros((1, 1, manifest.vocab_size), np.float32))
        # As long as the bucket that edgelm's cache has for this length: the attention kernel's time depends on it.
        decoder = model.decoder(1)
        decoder.cache.reserve(length)
        inputs, outputs = decoder.cache.rows(0, 1)
        for name, array in inputs.items():
            self._input(name, array)
        for name, array in outputs.items():
            self._output(name, array)

    def run(self, start: int, count: int) -> float:
        """Seconds a step, over `count` steps after `start` positions."""
        steps: list[float] = []
        for length in range(start, start + count):
            before = time.perf_counter()
            self._seqlens_k[0] = length
            self._total[...] = length + 1
            self._session.run_with_iobinding(self._io)
            steps.append(time.perf_counter() - before)
        return statistics.median(steps)

    def _input(self, name: str, array: Any) -> Any:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        self._io.bind_ortvalue_input(name, value)
        self._kept += [array, value]
        return array

    def _output(self, name: str, array: Any) -> None:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        self._io.bind_ortvalue_output(name, value)
        self._kept += [array, value]


def _ms(pairs: list[tuple[float, float]], which: int) -> float:
    return statistics.median(pair[which] for pair in pairs) * 1e3


if __name__ == "__main__":
    main()
