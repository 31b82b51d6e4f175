"""How fast this machine reads memory, measured on the spot: what bounds a decode step from below."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Far above any cache, and read in a few hundredths of a second; often enough that a neighbour who is busy for a moment does not count.
_BYTES = 256 << 20
_REPETITIONS = 25


def read_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read together from memory, the best of a few tries.

    Each adds up a part of its own in the processor's widest vectors, which is quicker than memory gives.
    """
    parts = np.array_split(np.ones(_BYTES // 4, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        return max(_once(pool, parts) for _ in range(_REPETITIONS))


def _once(pool: ThreadPoolExecutor, parts: list[np.ndarray]) -> float:
    start = time.perf_counter()
    list(pool.map(np.max, parts))  # NumPy lets go of the interpreter while it runs
    return _BYTES / (time.perf_counter() - start)
