"""The package directory: manifest read and checked, files checked against it, so that nothing unverified is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from edgelm.adapters import KeptAdapter
from edgelm.errors import DigestError, ManifestError, VersionError
from edgelm.signature import CacheGeometry
from edgelm.tasks import EncoderFacts

MANIFEST = "edgelm.json"
PROBES = "probes.onnx"  # known answers of operators, see known_answers.py
FORMAT_VERSION = 1
_SEAL = "sha256"  # the manifest's key for its own digest

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
    weight_bytes_per_step: int | None = None  # what a decode step reads of the data file; looked-up rows do not count
    probes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )  # output of probes.onnx -> {"operator", "tolerance"}: a known answer of an operator, see known_answers.py
    forms: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )  # other device -> its {"programs", "cache", "probes"} in place of these; they share the weights
    recorded_run: Mapping[str, Any] = field(default_factory=dict[str, Any])  # to be repeated, see recorded_run.py
    adapters: Mapping[str, KeptAdapter] = field(default_factory=dict[str, KeptAdapter])  # kept apart, by name
    notes: tuple[str, ...] = ()
    exporter: str = EDGELM
    format_version: int = FORMAT_VERSION
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def devices(self) -> tuple[str, ...]:
        """Execution providers the package has programs for."""
        return (self.device, *self.forms)

    def on(self, device: str) -> Manifest:
        """The manifest of the programs for one of `devices`; the recorded run is of the first."""
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
            recorded_run={},
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

    @property
    def start_token(self) -> int:
        """The token that targets of an encoder-decoder begin with.

        Raises:
            ManifestError: the checkpoint did not say it.
        """
        start = self.generation.get("decoder_start_token_id", self.generation.get("bos_token_id"))
        if not isinstance(start, int) or not 0 <= start < self.vocab_size:
            raise ManifestError(
                f"the package's decoder_start_token_id {start!r} is no token; correct the checkpoint's "
                "generation_config.json and export it again"
            )
        return start

    def to_json(self) -> str:
        """The manifest's text; the same manifest gives the same bytes."""
        values = {key: value for key, value in vars(self).items() if key != "extra"}
        values["cache"] = None if self.cache is None else self.cache.as_manifest()
        values["encoder"] = None if self.encoder is None else self.encoder.as_manifest()
        values["adapters"] = {name: vars(adapter) for name, adapter in self.adapters.items()}
        return sealed(values)

    def save(self, folder: Path) -> None:
        """Writes it into a package folder."""
        (folder / MANIFEST).write_text(self.to_json(), encoding="utf-8", newline="\n")


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


def form_file(name: str, device: str) -> str:
    """What a file of the package is called in its form for another device: decoder.onnx is decoder.cuda.onnx for CUDA."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{device}{dot}{suffix}"


def sealed(values: Mapping[str, Any]) -> str:
    """The text of a manifest, its own digest inside: the SHA-256 of the text in which the value of `sha256` is empty."""
    text = json.dumps({**values, _SEAL: ""}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return text.replace(_seal(""), _seal(hashlib.sha256(text.encode("utf-8")).hexdigest()), 1)


def _seal(digest: str) -> str:
    return f'\n "{_SEAL}": "{digest}"'  # one space, so of the outermost object


def _is_sealed(text: str, digest: object) -> bool:
    unsealed = text.replace(_seal(str(digest)), _seal(""), 1)
    return hashlib.sha256(unsealed.encode("utf-8")).hexdigest() == digest


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest:
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
    if not _is_sealed(text, values.get(_SEAL)):
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
        _inside(file.parent, name)
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
    named = {*_TYPES, *_OPTIONAL, _SEAL}
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
        "encoder": encoder,
        "weight_bytes_per_step": step,
        "probes": probes,
        "forms": forms,
        "recorded_run": _read_part(values, "recorded_run", dict[str, Any], file) or {},
        "adapters": adapters,
    }
    notes = tuple(map(str, values["notes"]))
    return Manifest(**known, **parts, notes=notes, exporter=exporter, extra=extra)


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
        if form["cache"] is not None:
            CacheGeometry.from_manifest(form["cache"])
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


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or any(sign in name for sign in "\\:\0"):
        raise ManifestError(
            f"{folder}: the manifest names {name!r}, a path that leaves the package; it is not safe to open"
        )
    file = folder / name
    if file.is_symlink() or not file.resolve().is_relative_to(folder.resolve()):
        raise ManifestError(f"{folder}: {name!r} is a link out of the package; it is not safe to open")
    return file
