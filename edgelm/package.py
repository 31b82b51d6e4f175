"""The package directory: manifest read and checked, files checked against it, so that nothing unverified is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from edgelm.errors import DigestError, ManifestError, VersionError
from edgelm.signature import CacheGeometry
from edgelm.tasks import EncoderFacts

MANIFEST = "edgelm.json"
FORMAT_VERSION = 1

# Who made the graphs, which says what their programs take: edgelm itself, or Optimum (a growing cache).
EDGELM, OPTIMUM = "edgelm", "optimum"


@dataclass(frozen=True)
class Manifest:
    """What edgelm.json says. Field names are its keys; docs/package-format.md describes them."""

    family: str
    task: str
    architecture: str
    programs: Mapping[str, str]  # program name -> its .onnx file
    cache: CacheGeometry | None  # of a decoder
    context_length: int
    vocab_size: int
    parameters: int
    device: str
    precision: str
    recipe: Mapping[str, Any]
    source: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]  # path in the package -> {"sha256", "size"}
    generation: Mapping[str, Any]
    quality: Mapping[str, Any]
    versions: Mapping[str, str]
    encoder: EncoderFacts | None = None  # of an encoder
    probes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )  # file -> {"operator", "tolerance"}: a known answer of an operator, see known_answers.py
    forms: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )  # other device -> its {"programs", "cache", "probes"} in place of these; they share the weights
    notes: tuple[str, ...] = ()
    exporter: str = EDGELM
    format_version: int = FORMAT_VERSION
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def devices(self) -> tuple[str, ...]:
        """Execution providers the package has programs for."""
        return (self.device, *self.forms)

    def on(self, device: str) -> Manifest:
        """The manifest of the programs for one of `devices`."""
        if device == self.device:
            return self
        form = self.forms[device]
        cache = form["cache"]
        return replace(
            self,
            device=device,
            programs=form["programs"],
            probes=form["probes"],
            cache=None if cache is None else CacheGeometry.from_manifest(cache),
            forms={},
        )

    @property
    def kv_cache(self) -> CacheGeometry:
        """The KV cache of a decoder.

        Raises:
            ManifestError: the package is no decoder.
        """
        if self.cache is None:
            raise ManifestError(f"a package of family {self.family!r} has no KV cache; use a decoder's")
        return self.cache

    @property
    def grows(self) -> bool:
        """Whether decoder programs put out a longer cache each time, instead of writing into the one they are given."""
        return self.exporter == OPTIMUM

    @property
    def encoder_facts(self) -> EncoderFacts:
        """How an encoder is fed and read.

        Raises:
            ManifestError: the package is no encoder.
        """
        if self.encoder is None:
            raise ManifestError(f"a package of family {self.family!r} is no encoder; export an encoder")
        return self.encoder

    def to_json(self) -> str:
        """The manifest's text; the same manifest gives the same bytes."""
        values = {key: value for key, value in vars(self).items() if key != "extra"}
        values["cache"] = None if self.cache is None else self.cache.as_manifest()
        values["encoder"] = None if self.encoder is None else self.encoder.as_manifest()
        return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def save(self, folder: Path) -> None:
        """Writes it into a package folder."""
        (folder / MANIFEST).write_text(self.to_json(), encoding="utf-8")


@dataclass(frozen=True)
class Package:
    """An opened package: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Package:
        """Reads the manifest and checks that every file is there with its recorded size; contents are checked by `verify_digests`.

        Raises:
            ManifestError: no manifest, an unreadable or incomplete one, or a file that is missing or lies outside the folder.
            VersionError: the package format is newer than this edgelm.
            DigestError: a file's size differs from the recorded one.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        for name, entry in manifest.files.items():
            file = _inside(folder, name)
            if not file.is_file():
                raise ManifestError(f"{folder}: {name} is missing; export the package again or copy it whole")
            if file.stat().st_size != entry["size"]:
                raise DigestError(
                    f"{folder}: {name} has {file.stat().st_size:,} bytes, the manifest says {entry['size']:,}; "
                    "the copy is incomplete or was changed, export or copy it again"
                )
        for form in map(manifest.on, manifest.devices):
            for program, name in form.programs.items():
                if name not in manifest.files:
                    raise ManifestError(
                        f"{folder}: program {program!r} names {name}, which is not among the package's files"
                    )
        return cls(folder, manifest)

    def on(self, devices: Iterable[str]) -> Package:
        """The package as it runs on the first of these devices that it has programs for."""
        device = next(device for device in devices if device in self.manifest.devices)
        return Package(self.path, self.manifest.on(device))

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
    def size(self) -> int:
        """Bytes of all files, without the manifest."""
        return sum(entry["size"] for entry in self.manifest.files.values())


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    if not file.is_file():
        raise ManifestError(f"{folder} is not an edgelm package: it has no {MANIFEST}; make one with edgelm export")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ManifestError(f"{file} cannot be read: {error}; export the package again") from error
    if not isinstance(raw, dict):
        raise ManifestError(f"{file} is not a manifest; export the package again")
    values = cast(dict[str, Any], raw)
    version = values.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ManifestError(f"{file}: format_version is {version!r}, expected a whole number from 1")
    if version > FORMAT_VERSION:
        raise VersionError(
            f"{folder} has package format {version}; this edgelm reads up to {FORMAT_VERSION}. Update it: pip install -U edgelm"
        )
    return _manifest_from(values, file)


_TYPES: Mapping[str, type] = {
    "family": str, "task": str, "architecture": str, "programs": dict, "context_length": int, "vocab_size": int,
    "parameters": int, "device": str, "precision": str, "recipe": dict, "source": dict, "files": dict, "generation": dict,
    "quality": dict, "versions": dict, "notes": list,
}  # fmt: skip


def _manifest_from(values: dict[str, Any], file: Path) -> Manifest:
    wrong = [key for key, kind in _TYPES.items() if not isinstance(values.get(key), kind)]
    if wrong:
        raise ManifestError(
            f"{file}: these fields are missing or of the wrong kind: {', '.join(wrong)}; export the package again"
        )
    for name, entry in cast(dict[str, dict[str, Any]], values["files"]).items():
        _inside(file.parent, name)
        if not isinstance(cast(Any, entry), dict) or not _is_file_entry(entry):
            raise ManifestError(f"{file}: the entry of {name} lacks its size or sha256")
    known = {key: values[key] for key in _TYPES if key != "notes"}
    exporter = values.get("exporter", EDGELM)
    if exporter not in (EDGELM, OPTIMUM):
        raise ManifestError(f"{file}: graphs of exporter {exporter!r} are not known to this edgelm; update it")
    named = (*_TYPES, "format_version", "exporter", "cache", "encoder", "probes", "forms")
    extra = {key: value for key, value in values.items() if key not in named}
    cache = _read_part(values, "cache", CacheGeometry.from_manifest, file)
    encoder = _read_part(values, "encoder", EncoderFacts.from_manifest, file)
    lacking = {"decoder": cache, "encoder": encoder}.get(values["family"], values)
    if lacking is None:
        raise ManifestError(
            f"{file}: the part that tells how to run this {values['family']} is missing; export it again"
        )
    probes = _read_part(values, "probes", partial(_probes, files=values["files"]), file) or {}
    forms = _read_part(values, "forms", partial(_forms, files=values["files"]), file) or {}
    notes = tuple(map(str, values["notes"]))
    return Manifest(
        **known, cache=cache, encoder=encoder, probes=probes, forms=forms, notes=notes, exporter=exporter, extra=extra
    )


Part = TypeVar("Part")


def _read_part(values: dict[str, Any], key: str, read: Callable[[Any], Part], file: Path) -> Part | None:
    """An object of the manifest that only some families have."""
    raw = values.get(key)
    if raw is None:
        return None
    try:
        if not isinstance(raw, dict):
            raise TypeError("it is no object")
        return read(raw)
    except (TypeError, KeyError, ValueError) as error:
        raise ManifestError(f"{file}: {key!r} is not usable: {error}; export the package again") from error


def _probes(values: dict[str, Any], files: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for name, probe in values.items():
        if name not in files:
            raise ValueError(f"{name} is not among the package's files")
        if not isinstance(probe["operator"], str) or not isinstance(probe["tolerance"], float):
            raise TypeError(f"the operator or the tolerance of {name} is not usable")
    return values


def _forms(values: dict[str, Any], files: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for device, form in values.items():
        if not isinstance(form["programs"], dict):
            raise TypeError(f"the programs for {device} are no object")
        if form["cache"] is not None:
            CacheGeometry.from_manifest(form["cache"])
        _probes(form["probes"], files)
    return values


def _is_file_entry(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise ManifestError(
            f"{folder}: the manifest names {name!r}, a path that leaves the package; it is not safe to open"
        )
    file = folder / name
    if file.is_symlink() or not file.resolve().is_relative_to(folder.resolve()):
        raise ManifestError(f"{folder}: {name!r} is a link out of the package; it is not safe to open")
    return file
