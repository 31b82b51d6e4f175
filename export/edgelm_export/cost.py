"""What an export cost: time by what it was spent on, bytes read, peak memory, bits a weight."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgelm.metrics import peak_memory_mib
from edgelm.package import Package


class Cost:
    """Notes what an export costs while it runs. None of it goes into the package, whose bytes must not depend on it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._read_before = _bytes_read()

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Adds the time of a `with` block to what it was spent on."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    def as_dict(self, package: Package) -> dict[str, Any]:
        """All figures; None where the system does not tell."""
        read = _bytes_read()
        return {
            "seconds": {what: round(seconds, 3) for what, seconds in self.seconds.items()},
            "peak_memory_mib": peak_memory_mib(),
            "bytes_read": None if read is None or self._read_before is None else read - self._read_before,
            "bits_per_weight": round(bits_per_weight(package), 3),
        }

    def describe(self, package: Package) -> str:
        """The same in a line."""
        figures = self.as_dict(package)
        parts = [f"{figures['bits_per_weight']:.2f} bits a weight"]
        parts += [f"{seconds:.1f} s {what}" for what, seconds in figures["seconds"].items()]
        parts += [f"{figures['bytes_read'] / 1e6:,.1f} MB read"] if figures["bytes_read"] is not None else []
        parts += [f"peak {figures['peak_memory_mib']:,.0f} MiB of memory"] if figures["peak_memory_mib"] else []
        return "cost: " + ", ".join(parts)


def bits_per_weight(package: Package) -> float:
    """Of the data files, for each value in the checkpoint."""
    data = sum(entry["size"] for name, entry in package.manifest.files.items() if name.endswith(".data"))
    return 8 * data / max(1, package.manifest.parameters)


def _bytes_read() -> int | None:
    """Bytes this process has read so far, from disk or from what the system keeps of it; None where it does not tell."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
            if line.startswith("rchar:"):
                return int(line.split()[1])
    return None
