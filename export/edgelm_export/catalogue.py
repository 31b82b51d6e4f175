"""The catalogue: reads and checks `models/*.toml`, one file a model. Name in, places of its checkpoint out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgelm.errors import CheckpointError


@dataclass(frozen=True)
class HubSource:
    """A repository on a hub at one revision; `file` names a `.gguf` file in it."""

    id: str
    revision: str
    file: str | None = None
    note: str = ""

    def __str__(self) -> str:
        return f"hub {self.id}" + (f" ({self.file})" if self.file else "")


@dataclass(frozen=True)
class IndexSource:
    """A `.gguf` file inside a wheel on a Python package index. Sizes in bytes, digests SHA-256 in hex."""

    package: str
    version: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str
    note: str = ""

    def __str__(self) -> str:
        return f"package index {self.package} {self.version}"


@dataclass(frozen=True)
class CatalogueEntry:
    """One model of the catalogue.

    Attributes:
        sources: in order of preference.
        export: what `edgelm export` takes when it is not told otherwise: precision, block_size, context_length.
        reference_scores: measured figures by precision.
    """

    name: str
    description: str
    architecture: str
    parameters: int
    licence: str
    sources: tuple[HubSource | IndexSource, ...]
    export: Mapping[str, Any]
    reference_scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class _Key:
    """What one key of a table must hold."""

    meaning: str
    accepts: Callable[[Any], bool]
    required: bool = True


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_gguf_path(value: Any) -> bool:
    if not isinstance(value, str) or "\\" in value or not value.lower().endswith(".gguf"):
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts and ":" not in value


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _are_scores(value: Any) -> bool:
    def is_number(score: Any) -> bool:
        return isinstance(score, int | float) and not isinstance(score, bool)

    tables = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(table, dict) and all(map(is_number, table.values())) for table in tables)


_TEXT = _Key("a text of one line", _matches(r"\S[^\n]*"))
_COUNT = _Key("a whole number above 0", _is_count)
_DIGEST = _Key("a SHA-256 of 64 lower-case hex digits", _matches(r"[0-9a-f]{64}"))
_NOTE = _Key(_TEXT.meaning, _TEXT.accepts, required=False)
_GGUF = _Key("a relative path to a .gguf file, with / between its parts", _is_gguf_path)

_MODEL = {
    "name": _Key("lower-case letters, digits, . and -", _matches(r"[a-z0-9][a-z0-9.-]*")),
    "description": _TEXT,
    "architecture": _TEXT,
    "parameters": _COUNT,
    "licence": _TEXT,
    "sources": _Key("a list of tables", _is_list_of_tables),
    "export": _Key("a table", lambda value: isinstance(value, dict), required=False),
    "reference_scores": _Key("a table of numbers a precision", _are_scores, required=False),
}
_EXPORT = {
    "precision": _Key(_TEXT.meaning, _TEXT.accepts, required=False),
    "block_size": _Key(_COUNT.meaning, _COUNT.accepts, required=False),
    "context_length": _Key(_COUNT.meaning, _COUNT.accepts, required=False),
}
# No value may begin with a dash: some of them become arguments of pip.
_SOURCES: Mapping[str, tuple[type[HubSource | IndexSource], Mapping[str, _Key]]] = {
    "hub": (
        HubSource,
        {
            "id": _Key("owner/name", _matches(r"[\w.][\w.-]*/[\w.][\w.-]*")),
            "revision": _Key("a commit of 40 hex digits, a tag or a branch", _matches(r"\w[\w./-]*")),
            "file": _Key(_GGUF.meaning, _GGUF.accepts, required=False),
            "note": _NOTE,
        },
    ),
    "pypi": (
        IndexSource,
        {
            "package": _Key("a package's name", _matches(r"[A-Za-z0-9][A-Za-z0-9._-]*")),
            "version": _Key("an exact version", _matches(r"[0-9][0-9A-Za-z.!+]*")),
            "wheel_size": _COUNT,
            "wheel_sha256": _DIGEST,
            "member": _GGUF,
            "size": _COUNT,
            "sha256": _DIGEST,
            "note": _NOTE,
        },
    ),
}


def catalogue_folder() -> Path:
    """Where the catalogue's files lie: beside this module in an installed wheel, in `models/` of a source checkout."""
    here = Path(__file__).resolve()
    packaged = here.parent / "catalogue"
    return packaged if packaged.is_dir() else here.parents[2] / "models"


def names() -> list[str]:
    """Every name of the catalogue, sorted."""
    return list(load_catalogue())


def load_catalogue(folder: Path | None = None) -> dict[str, CatalogueEntry]:
    """Every entry by name, sorted.

    Raises:
        CheckpointError: the folder is missing, or a file in it is not as it should be (all its faults at once).
    """
    folder = catalogue_folder() if folder is None else folder
    if not folder.is_dir():
        raise CheckpointError(f"the catalogue of models is missing ({folder}): install edgelm again")
    return {path.stem: read_entry(path) for path in sorted(folder.glob("*.toml"))}


def read_entry(path: Path) -> CatalogueEntry:
    """One catalogue file.

    Raises:
        CheckpointError: it is not TOML, lacks keys, has unknown ones or values of the wrong kind; all are listed.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"catalogue file {path.name} cannot be read: {error}") from error
    problems = _faults(raw, _MODEL, "")
    if not problems and raw["name"] != path.stem:
        problems.append(f"name {raw['name']!r} differs from the file's name {path.stem!r}")
    sources: list[HubSource | IndexSource] = []
    if _is_list_of_tables(raw.get("sources")):
        for number, table in enumerate(raw["sources"], 1):
            _read_source(table, f"sources[{number}].", sources, problems)
    if isinstance(raw.get("export"), dict):
        problems += _faults(raw["export"], _EXPORT, "export.")
    if problems:
        raise CheckpointError(f"catalogue file {path.name} must be corrected: {'; '.join(problems)}")
    values: dict[str, Any] = {"export": {}, "reference_scores": {}} | raw | {"sources": tuple(sources)}
    return CatalogueEntry(**values)


def _read_source(table: Mapping[str, Any], where: str, sources: list[Any], problems: list[str]) -> None:
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _SOURCES:
        problems.append(f"{where}kind must be one of {', '.join(_SOURCES)}, not {kind!r}")
        return
    make, keys = _SOURCES[kind]
    values = {key: value for key, value in table.items() if key != "kind"}
    found = _faults(values, keys, where)
    problems += found
    if not found:
        sources.append(make(**values))


def _faults(table: Mapping[str, Any], keys: Mapping[str, _Key], where: str) -> list[str]:
    missing = [f"{where}{name} is missing" for name, key in keys.items() if key.required and name not in table]
    unknown = [f"{where}{name} is not a known key" for name in table if name not in keys]
    wrong = [
        f"{where}{name} must be {key.meaning}, not {table[name]!r}"
        for name, key in keys.items()
        if name in table and not key.accepts(table[name])
    ]
    return missing + unknown + wrong
