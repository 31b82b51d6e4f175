"""Where a checkpoint comes from: folder, `.gguf` file, catalogue name or hub id in, a path on this disk out."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from edgelm.errors import CheckpointError, CorruptFile
from edgelm.manifest import MANIFEST
from edgelm.progress import StartProgress, progress
from edgelm_export.catalogue import CatalogueEntry, HubSource, IndexSource, load_catalogue
from edgelm_export.checkpoint.files import CONVERT_PICKLE, PICKLE_SUFFIXES
from edgelm_export.fetched import Source, Unreachable
from edgelm_export.hub import LOOKUP_SECONDS, fetch_from_hub, find_cached
from edgelm_export.hub_headers import fetch_headers
from edgelm_export.package_index import cached_file, fetch_from_index

__all__ = ["Source", "Unreachable", "is_cached", "resolve_headers", "resolve_source"]

_LOG = logging.getLogger(__name__)
# With another source in hand nobody should wait long for a hub that a firewall hides.
_IMPATIENT_SECONDS = 5.0
_PART = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"({_PART}/{_PART})(?:[:/](.+\.gguf))?", re.IGNORECASE)


def resolve_source(
    source: str, *, revision: str | None = None, offline: bool = False, progress: StartProgress = progress
) -> Source:
    """Finds a checkpoint, fetching it where necessary; nothing that is fetched is ever executed.

    Args:
        source: an existing folder or `.gguf` file, a name of the catalogue, or a hub id: "owner/name", and
            "owner/name:file.gguf" or "owner/name/file.gguf" for one file of a GGUF repository.
        revision: commit, tag or branch on the hub; the newest, or the catalogue's, when None.
        offline: use what is on this disk and ask nobody.
        progress: opens progress bars.

    Raises:
        CheckpointError: it is none of these, or cannot be had (`Unreachable` when nobody answers).
        CorruptFile: what was fetched has another digest than promised.
    """
    catalogue = load_catalogue()
    path = Path(source).expanduser()
    # A package that was exported to a folder of the catalogue's name must not hide that name.
    if path.exists() and not (source in catalogue and (path / MANIFEST).exists()):
        return _local(path, revision)
    if source in catalogue:
        return _from_catalogue(catalogue[source], revision, offline, progress)
    return fetch_from_hub(_hub_source(source, revision, catalogue), offline=offline, start=progress)


@contextmanager
def resolve_headers(source: str, *, revision: str | None = None, offline: bool = False) -> Generator[Source]:
    """The same for a look at headers alone: of a hub id that is not on this disk, no weight is fetched.

    What it yields lives as long as the context; raises what `resolve_source` raises.
    """
    catalogue = load_catalogue()
    if offline or source in catalogue or Path(source).expanduser().exists():
        yield resolve_source(source, revision=revision, offline=offline)
        return
    wanted = _hub_source(source, revision, catalogue)
    if find_cached(wanted) is not None:
        yield resolve_source(source, revision=revision)
        return
    with tempfile.TemporaryDirectory(prefix="edgelm-headers.") as folder:
        yield fetch_headers(wanted, Path(folder))


def is_cached(entry: CatalogueEntry) -> bool:
    """Whether any of an entry's sources is on this disk already; asks nobody and checks no digest."""
    return any(_source_is_cached(source) for source in entry.sources)


def _source_is_cached(source: HubSource | IndexSource) -> bool:
    if isinstance(source, IndexSource):
        return cached_file(source).is_file()
    try:
        return find_cached(source) is not None
    except CheckpointError:  # huggingface-hub is not installed
        return False


def _local(path: Path, revision: str | None) -> Source:
    if revision is not None:
        raise CheckpointError(f"{path} is on this disk and has no revisions: leave --revision away")
    if (path / MANIFEST).exists():
        raise CheckpointError(f"{path} is an edgelm package, not a checkpoint: `edgelm run {path}` uses it")
    if path.is_dir() or path.suffix.lower() == ".gguf":
        return Source(path, path.resolve().name)
    if path.suffix.lower() == ".safetensors":
        raise CheckpointError(f"{path} is one file of a checkpoint: give its folder, which holds config.json too")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{path} is a pickle, which edgelm never reads because that can run code: take a safetensors copy, or {CONVERT_PICKLE}"
        )
    raise CheckpointError(f"{path} is neither a folder nor a .gguf file, and edgelm reads nothing else")


def _hub_source(source: str, revision: str | None, catalogue: Mapping[str, CatalogueEntry]) -> HubSource:
    path = Path(source).expanduser()
    found = _HUB_ID.fullmatch(source)
    is_file = source.lower().endswith(".gguf")
    if found is not None and ".." not in source and (found[2] or not is_file):
        return HubSource(found[1], revision or "main", found[2])
    if path.is_absolute() or source.startswith(("./", "../", "~")) or "\\" in source or source.count("/") > 1:
        raise CheckpointError(f"{source} does not exist: check the path")
    if is_file:
        raise CheckpointError(f"{source} does not exist in this folder: check the path, or give owner/name:file")
    near = get_close_matches(source.lower(), catalogue, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}?" if near else "`edgelm models` lists the catalogue"
    raise CheckpointError(
        f"{source!r} is no file or folder here, no name of the catalogue and no hub id (owner/name): {meant}"
    )


def _from_catalogue(entry: CatalogueEntry, revision: str | None, offline: bool, start: StartProgress) -> Source:
    sources = entry.sources
    if revision is not None:  # a wheel cannot honour it
        sources = tuple(replace(item, revision=revision) for item in sources if isinstance(item, HubSource))
    failures: list[str] = []
    for number, item in enumerate(sources):
        last = number + 1 == len(sources)
        if failures:
            note = f" ({item.note})" if item.note else ""
            _LOG.warning("%s: %s; taking the %s%s instead", entry.name, failures[-1], item, note)
        try:
            if isinstance(item, IndexSource):
                found = fetch_from_index(item, offline=offline, start=start)
            else:
                seconds = LOOKUP_SECONDS if last else _IMPATIENT_SECONDS
                found = fetch_from_hub(item, offline=offline, start=start, seconds=seconds)
            return replace(found, entry=entry)
        except CorruptFile:  # another source must not paper over a file that was tampered with
            raise
        except CheckpointError as error:
            failures.append(str(error))
    if not failures:
        raise CheckpointError(f"{entry.name} has no hub source that --revision could choose from: leave it away")
    raise CheckpointError(f"{entry.name} cannot be had from any of its sources: {'; '.join(failures)}")
