"""What this machine has: instruction sets that ONNX Runtime's kernels are chosen by, cores, memory. Asks the system only."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

# Names of /proc/cpuinfo: what integer and half-precision kernels are chosen by, on x86-64 and on Arm.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)


@cache
def cpu_features() -> tuple[str, ...]:
    """Instruction sets by the names that Linux gives them; where there are no such lists, the processor's name alone."""
    found = read_features(_CPUINFO)
    return found if found is not None else (platform.processor() or platform.machine(),)


def read_features(cpuinfo: Path) -> tuple[str, ...] | None:
    """Those features in a file like /proc/cpuinfo that matter, in a fixed order; None where it is none."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            flags = set(value.split())
            return tuple(name for name in _FEATURES if name in flags)
    return None


def physical_cores(system: Path = Path("/sys/devices/system/cpu")) -> int:
    """Cores this process may use, those that share one counted once where the system tells."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    try:
        return len({(system / f"cpu{i}" / "topology" / "thread_siblings_list").read_text() for i in allowed})
    except OSError:
        return len(allowed)


def available_memory() -> int | None:
    """Bytes the system says can be had without swapping; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _physical_memory()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), _physical_memory())


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
