"""The package directory: files checked against the manifest, so that nothing unverified is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgelm.errors import DigestError, ManifestError
from edgelm.manifest import PROBES, Manifest, form_file
from edgelm.read_manifest import inside, read_manifest


@dataclass(frozen=True)
class Package:
    """An opened package: its folder, its manifest, and which file of it has the probes."""

    path: Path
    manifest: Manifest
    probes: str = PROBES

    @classmethod
    def open(cls, path: str | Path) -> Package:
        """Reads the manifest and checks that every file is there with its recorded size; contents are checked by `verify_digests`.

        Raises:
            ManifestError: no manifest, an unreadable or incomplete one, or a file that is missing or lies outside the folder.
            VersionError: the package format is newer than this edgelm.
            DigestError: a file's size differs from the recorded one.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        for name, entry in manifest.files.items():
            file = inside(folder, name)
            if not file.is_file():
                raise ManifestError(f"{folder}: {name} is missing; export the package again or copy it whole")
            if file.stat().st_size != entry["size"]:
                raise DigestError(
                    f"{folder}: {name} has {file.stat().st_size:,} bytes, the manifest says {entry['size']:,}; "
                    "the copy is incomplete or was changed, export or copy it again"
                )
        return cls(folder, manifest)

    def on(self, devices: Iterable[str]) -> Package:
        """The package as it runs on the first of these devices that it has programs for."""
        device = next(device for device in devices if device in self.manifest.devices)
        if device == self.manifest.device:
            return self
        return Package(self.path, self.manifest.on(device), form_file(PROBES, device))

    def verify_digests(self) -> None:
        """Compares every file's SHA-256 with the manifest.

        Raises:
            DigestError: a file was changed.
        """
        for name, entry in self.manifest.files.items():
            found = sha256(self.path / name)
            if found != entry["sha256"]:
                raise DigestError(
                    f"{self.path}: {name} was changed since the export (SHA-256 {found[:12]}…, recorded {entry['sha256'][:12]}…); "
                    "export it again or fetch a clean copy"
                )

    def program(self, name: str) -> Path:
        """The graph file of a program.

        Raises:
            ManifestError: the package has no such program.
        """
        if name not in self.manifest.programs:
            raise ManifestError(f"{self.path}: has no program {name!r} (it has {', '.join(self.manifest.programs)})")
        return self.path / self.manifest.programs[name]

    @property
    def digest(self) -> str:
        """SHA-256 over the names and digests of all files, which tells two packages apart."""
        entries = {name: entry["sha256"] for name, entry in self.manifest.files.items()}
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files, without the manifest."""
        return sum(entry["size"] for entry in self.manifest.files.values())


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
