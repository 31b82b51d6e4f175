"""What the processor of this machine has that ONNX Runtime's kernels choose by. Asks the system only, runs nothing."""

from __future__ import annotations

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
