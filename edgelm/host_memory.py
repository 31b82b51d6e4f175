"""Arrays in the memory of this process that programs read and write in place, and what becomes of memory that was freed."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.cuda import host_dtype

# Arrays from here on are mappings of their own, which go back to the system when they are freed. malloc keeps what a thread has freed
# for that thread, and a decoder's thread ends with its work: the caches of earlier requests stayed resident beside those of later ones.
_MAPPED = 128 << 10

# NumPy asks for huge pages from here on, and so do we.
_HUGE = 4 << 20


class HostMemory:
    """The memory of this process."""

    def empty(self, shape: Sequence[int], dtype: str, *, sparse: bool = False) -> NDArray[Any]:
        """A zeroed array; bfloat16, which NumPy lacks, as uint16."""
        return buffer(tuple(shape), host_dtype(dtype), sparse=sparse)


HOST_MEMORY = HostMemory()


class FreedMemory:
    """Memory that malloc keeps after it was freed.

    glibc's keeps it for the thread that had it, and what comes next may run in another: of two models of the same use, one took 6 %
    more for good after a minute of load, though both had the same arrays.
    """

    def __init__(self, rest: float = 5.0) -> None:
        """It is given back every `rest` seconds at most, for that takes milliseconds, and so does getting it again."""
        self._rest = rest
        self._next = -math.inf

    def give_back(self) -> None:
        """Returns what is free to the system, where malloc is glibc's; to be called when work is done."""
        now = time.monotonic()
        if sys.platform != "linux" or now < self._next:
            return
        self._next = now + self._rest
        with suppress(OSError, AttributeError):  # another malloc
            ctypes.CDLL(None).malloc_trim(0)


FREED_MEMORY = FreedMemory()


def buffer(shape: tuple[int, ...], dtype: str, *, sparse: bool = False) -> NDArray[Any]:
    """A zeroed array to bind. Pages of it cost memory only once they are written.

    `sparse` is for large arrays of which little may ever be written: they get no huge pages. A cache [rows, heads, positions, ...]
    would take one a head with its first position: 28 MB for the keys and values of a 4,096 token window after a prompt of 20.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _MAPPED:
        return np.zeros(shape, dtype)
    try:
        memory = _mapping(size)
    except OSError:  # Linux allows a process 65,530 mappings unless told otherwise
        return np.zeros(shape, dtype)
    if size >= _HUGE and not sparse and sys.platform == "linux":
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def _mapping(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    # Private, for a child of fork() must not write into its parent's caches.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
