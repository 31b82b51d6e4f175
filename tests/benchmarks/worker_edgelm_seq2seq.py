"""Runs an edgelm package of an encoder-decoder through the public API. Reads translating.py's keys."""

from __future__ import annotations

import time
from typing import Any

from protocol import read_task
from translating import Ids, serve

import edgelm
from edgelm.memory import SourceMemory


class Watched:
    """Notes how large the memories of sources are that a search reads from, each time their arrays are bound."""

    def __init__(self) -> None:
        self.most = 0
        plain = SourceMemory.inputs

        def inputs(memory: SourceMemory, start: int, stop: int) -> Any:
            self.most = max(self.most, memory.nbytes)
            return plain(memory, start, stop)

        SourceMemory.inputs = inputs


def main() -> None:
    task = read_task()
    start = time.perf_counter()
    model = edgelm.load(task["package"], threads=task["threads"])
    load_s = time.perf_counter() - start
    watched = Watched()

    def generate(sources: list[Ids], beams: int, count: int) -> list[list[int]]:
        found = model.generate(sources, num_beams=beams, max_new_tokens=count, min_new_tokens=count, temperature=0)
        return [one.token_ids for one in found]

    serve(task, load_s, generate, model.logits, source_memory_bytes=lambda: watched.most)


if __name__ == "__main__":
    main()
