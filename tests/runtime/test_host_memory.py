"""Arrays that programs read and write in place: zeroed, private, and the system's again when they are freed."""

from __future__ import annotations

import mmap
import os
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from edgelm.host_memory import HOST_MEMORY, FreedMemory, buffer

LARGE = (8, 64, 1024)  # 2 MiB of float32

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), LARGE, (8, 8 * 64, 1024)])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_buffer_is_zeroed_and_writable(shape: tuple[int, ...], sparse: bool) -> None:
    found = buffer(shape, "float32", sparse=sparse)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == (shape, np.float32, True)
    assert not found.any()
    found[...] = 1
    assert found.all()


def test_where_the_system_has_no_more_mappings_malloc_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refused)
    array = buffer(LARGE, "float32")
    assert array.flags.owndata
    assert not array.any()


def test_bfloat16_is_kept_as_uint16() -> None:
    assert HOST_MEMORY.empty(LARGE, "bfloat16").dtype == np.uint16


@needs_proc
def test_a_large_buffer_costs_what_is_written_and_gives_it_back() -> None:
    before = resident()
    buffers = [buffer(LARGE, "float32") for _ in range(32)]  # 64 MiB
    assert resident() - before < 8 << 20
    for array in buffers:
        array[...] = 1
    assert resident() - before > 56 << 20
    between = [array[:1] for array in buffers[::8]]  # what lives on keeps its own buffer, and no other
    del buffers, array
    assert resident() - before < 16 << 20
    assert all(part.all() for part in between)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_does_not_write_into_its_parents_buffers() -> None:
    array = buffer(LARGE, "float32")
    child = os.fork()
    if not child:
        array[...] = 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not array.any()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is asked")
def test_freed_memory_goes_back_to_the_system_but_not_all_the_time() -> None:
    freed = FreedMemory(rest=60)
    assert _given_back(freed) > 24 << 20
    assert _given_back(freed) < 8 << 20  # it was asked just now
    assert _given_back(FreedMemory()) > 24 << 20


def _given_back(freed: FreedMemory) -> int:
    """Bytes that go back to the system when 32 MiB between arrays that live on are free."""
    arrays = [np.ones(8 << 10, np.float32) for _ in range(1024)]
    between = arrays[::64]
    del arrays
    before = resident()
    freed.give_back()
    assert all(array.all() for array in between)
    return before - resident()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
