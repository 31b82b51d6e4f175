"""Temporary folders that vanish at the end, and at the latest when the next export finds that nobody holds them any more."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows, where what a killed process leaves stays
    fcntl = None


class ScratchFolder:
    """A folder of this process, used in a `with` block; its lock is gone with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _locked(path)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def scratch_folder(parent: Path, prefix: str) -> ScratchFolder:
    """Makes a folder in `parent`, whose other folders of that prefix are removed if the process that made them is gone.

    Raises:
        OSError: it cannot be made.
    """
    for other in parent.glob(f"{glob.escape(prefix)}*"):
        lock = _locked(other)
        if lock is not None:
            shutil.rmtree(other, ignore_errors=True)
            os.close(lock)
    while True:
        made = ScratchFolder(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))
        if made.path.exists():  # else another export took it for abandoned before it was locked
            return made


def _locked(folder: Path) -> int | None:
    """A lock on the folder; None where another process holds it, or there are no locks."""
    if fcntl is None:
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if handle is not None:
            os.close(handle)
        return None
    return handle
