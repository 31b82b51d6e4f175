"""--max-ram: a bound on the resident memory of an export that the operating system keeps.

Linux counts what a process may write to against RLIMIT_DATA, whether it is resident or not, so a process that may get so much more
than it has cannot have more of it resident either. What files map into memory, the code of libraries that are still to be loaded
for the most part, is not counted; room is left for it.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from edgelm.errors import InvalidOption
from edgelm_export.workers import threads

# Code that is loaded later: ONNX Runtime's, for calibration and verification.
_MAPPED_LATER = 32_000_000
# What pieces of a tensor take at once while they are rounded: as float32, as codes, as candidates that are compared.
_COPIES = 4
_WORKSPACE = 16_000_000
# Stack, and what a thread holds while it rounds a part of a piece.
_THREAD = 16_000_000

_STATUS = Path("/proc/self/status")


class MemoryBound:
    """Keeps this process from taking more memory inside a `with` block; without a bound it does nothing."""

    def __init__(self, nbytes: int | None) -> None:
        """Nothing is limited yet.

        Raises:
            InvalidOption: this system cannot keep a bound.
        """
        self._nbytes = nbytes
        self._before = (0, 0)
        if nbytes is not None and not _STATUS.exists():
            raise InvalidOption("--max-ram is kept by Linux, and this is another system; leave it out")

    @property
    def left(self) -> int | None:
        """Bytes that may still become resident; None without a bound."""
        return None if self._nbytes is None else self._nbytes - _status("VmRSS") - _MAPPED_LATER

    def has_room(self, nbytes: float) -> bool:
        """Whether so many bytes may still become resident."""
        return self.left is None or nbytes <= self.left

    def check(self, largest_piece: int) -> None:
        """Refuses before anything is written what cannot be done within the bound.

        Args:
            largest_piece: bytes of the largest piece of a tensor that is in memory at once.

        Raises:
            InvalidOption: the bound is too low.
        """
        needed = _COPIES * largest_piece + _WORKSPACE + _THREAD * (threads() + 1)  # one more for digests
        if self._nbytes is not None and self.left is not None and not self.has_room(needed):
            least = self._nbytes - self.left + needed
            raise InvalidOption(
                f"--max-ram {self._nbytes:,} bytes cannot be kept: this export needs about {least / 1e6:,.0f} MB, most of it for a piece "
                f"of {largest_piece / 1e6:,.0f} MB of a tensor; allow more"
            )

    def __enter__(self) -> MemoryBound:
        if self.left is not None:
            import resource  # not there on Windows

            self._before = resource.getrlimit(resource.RLIMIT_DATA)
            allowed = _status("VmData") + max(0, self.left)
            most = self._before[1]
            soft = allowed if most == resource.RLIM_INFINITY else min(allowed, most)
            resource.setrlimit(resource.RLIMIT_DATA, (soft, most))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nbytes is None:
            return
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, self._before)
        if isinstance(error, MemoryError):
            raise InvalidOption(
                f"--max-ram {self._nbytes:,} bytes was reached and the export stopped; nothing was left behind. Allow more, "
                "or leave out what takes most: verification (--no-verify), calibration (a precision without it)"
            ) from error


def _status(key: str) -> int:
    """A figure that the system keeps about this process, in bytes."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
