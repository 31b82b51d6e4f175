"""Runs an edgelm encoder package through the public API. Reads encoding.py's keys; batches are edgelm's own affair."""

from __future__ import annotations

import time
from typing import Any

from encoding import serve
from protocol import read_task

import edgelm


def main() -> None:
    task = read_task()
    start = time.perf_counter()
    model = edgelm.load(task["package"], threads=task["threads"])
    load_s = time.perf_counter() - start

    def encode(texts: list[str], order: str) -> Any:
        return model.encode(texts, batch_size=task["batch_size"], truncate=True)

    serve(task, load_s, encode)


if __name__ == "__main__":
    main()
