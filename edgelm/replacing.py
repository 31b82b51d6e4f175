"""Files that appear under their name when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, private: bool = True) -> Generator[Path]:
    """A new file beside `path` for the block to write, which takes that name at its end; nothing is left behind when the block fails.

    Args:
        path: in a folder that exists.
        private: nobody but the user may read it; otherwise it has the permissions of any new file.

    Raises:
        OSError: the file cannot be made or moved.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if not private:
            temporary.chmod(0o666 & ~umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def umask() -> int:
    """The permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
