"""Reads edgelm.json and checks all that the runtime relies on, so that nothing of a package is opened unchecked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from edgelm.adapters import KeptAdapter
from edgelm.errors import DigestError, ManifestError, VersionError
from edgelm.manifest import (
    EDGELM,
    FORMAT_VERSION,
    MANIFEST,
    OPTIMUM,
    PROBES,
    SEAL,
    Manifest,
    activations_of,
    form_file,
    is_sealed,
)
from edgelm.signature import CacheGeometry
from edgelm.tasks import EncoderFacts


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a package folder.

    Raises:
        ManifestError: there is none, it cannot be read, or what it says cannot be.
        VersionError: the package format is newer than this edgelm.
        DigestError: it was changed since the export.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise ManifestError(f"{folder} is not an edgelm package: it has no {MANIFEST}; make one with edgelm export")
    try:
        text = file.read_bytes().decode("utf-8")
        raw = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
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
    if not is_sealed(text, values.get(SEAL)):
        raise DigestError(
            f"{file} was changed since the export (its own SHA-256 does not match); export the package again or fetch a clean copy"
        )
    return _manifest_from(values, file)


_TYPES: Mapping[str, type] = {
    "family": str, "task": str, "architecture": str, "programs": dict, "context_length": int, "vocab_size": int,
    "parameters": int, "device": str, "precision": str, "recipe": dict, "source": dict, "files": dict, "generation": dict,
    "quality": dict, "versions": dict, "notes": list,
}  # fmt: skip

# Keys that not every manifest has.
_OPTIONAL = (
    "format_version",
    "exporter",
    "cache",
    "activations",
    "encoder",
    "probes",
    "forms",
    "recorded_run",
    "adapters",
    "weight_bytes_per_step",
)


def _manifest_from(values: dict[str, Any], file: Path) -> Manifest:
    wrong = [key for key, kind in _TYPES.items() if not isinstance(values.get(key), kind)]
    if wrong:
        raise ManifestError(
            f"{file}: these fields are missing or of the wrong kind: {', '.join(wrong)}; export the package again"
        )
    for name, entry in cast(dict[str, dict[str, Any]], values["files"]).items():
        inside(file.parent, name)
        if not isinstance(cast(Any, entry), dict) or not _is_file_entry(entry):
            raise ManifestError(f"{file}: the entry of {name} lacks its size or sha256")
    for name, program in cast(dict[str, Any], values["programs"]).items():
        if not isinstance(program, str) or program not in values["files"]:
            raise ManifestError(f"{file}: program {name!r} names {program}, which is not among the package's files")
    known = {key: values[key] for key in _TYPES if key != "notes"}
    exporter = values.get("exporter", EDGELM)
    if exporter not in (EDGELM, OPTIMUM):
        raise ManifestError(f"{file}: graphs of exporter {exporter!r} are not known to this edgelm; update it")
    step = values.get("weight_bytes_per_step")
    if step is not None and not (type(step) is int and step >= 0):
        raise ManifestError(f"{file}: weight_bytes_per_step must be a count of bytes, not {step!r}; export it again")
    named = {*_TYPES, *_OPTIONAL, SEAL}
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
    adapters = _read_part(values, "adapters", partial(_adapters, files=values["files"]), file) or {}
    parts: dict[str, Any] = {
        "cache": cache,
        "activations": _activations(values, cache, file),
        "encoder": encoder,
        "weight_bytes_per_step": step,
        "probes": probes,
        "forms": forms,
        "recorded_run": _read_part(values, "recorded_run", dict[str, Any], file) or {},
        "adapters": adapters,
    }
    notes = tuple(map(str, values["notes"]))
    return Manifest(**known, **parts, notes=notes, exporter=exporter, extra=extra)


def _activations(values: dict[str, Any], cache: CacheGeometry | None, file: Path) -> str:
    try:
        return activations_of(values, cache)
    except TypeError as error:
        raise ManifestError(f"{file}: {error}; export the package again") from error


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


def _probes(values: dict[str, Any], files: Mapping[str, Any], graph: str = PROBES) -> dict[str, dict[str, Any]]:
    if values and graph not in files:
        raise ValueError(f"{graph} is not among the package's files")
    for name, probe in values.items():
        if not isinstance(probe["operator"], str) or not isinstance(probe["tolerance"], float):
            raise TypeError(f"the operator or the tolerance of {name} is not usable")
    return values


def _forms(values: dict[str, Any], files: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for device, form in values.items():
        if not isinstance(form["programs"], dict):
            raise TypeError(f"the programs for {device} are no object")
        for name, program in cast("dict[str, Any]", form["programs"]).items():
            if program not in files:
                raise ValueError(
                    f"program {name!r} for {device} names {program}, which is not among the package's files"
                )
        activations_of(form, None if form["cache"] is None else CacheGeometry.from_manifest(form["cache"]))
        for key in ("quality", "recorded_run"):
            if not isinstance(form.get(key, {}), dict):
                raise TypeError(f"the {key} for {device} is no object")
        _probes(form["probes"], files, form_file(PROBES, device))
    return values


def _adapters(values: dict[str, Any], files: Mapping[str, Any]) -> dict[str, KeptAdapter]:
    adapters = {name: KeptAdapter.from_manifest(entry) for name, entry in values.items()}
    for name, adapter in adapters.items():
        if adapter.file not in files:
            raise ValueError(f"the file of {name} is not among the package's files")
    return adapters


def _is_file_entry(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)


def inside(folder: Path, name: str) -> Path:
    """The file of that name in a package folder.

    Raises:
        ManifestError: it would lie elsewhere.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or any(sign in name for sign in "\\:\0"):
        raise ManifestError(
            f"{folder}: the manifest names {name!r}, a path that leaves the package; it is not safe to open"
        )
    file = folder / name
    if file.is_symlink() or not file.resolve().is_relative_to(folder.resolve()):
        raise ManifestError(f"{folder}: {name!r} is a link out of the package; it is not safe to open")
    return file
