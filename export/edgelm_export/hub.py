"""Checkpoints from a hub: a repository's id goes in, a folder or `.gguf` file of one commit comes out.

Transport and cache are huggingface-hub's (HF_ENDPOINT, HF_HOME, HF_TOKEN work as everywhere). Only data is fetched: no
pickle, no code; there is no trust_remote_code.
"""

from __future__ import annotations

import errno
import glob
import itertools
import logging
import os
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.errors import CheckpointError
from edgelm.progress import StartProgress, watch_folder
from edgelm_export.catalogue import HubSource
from edgelm_export.fetched import Source, Unreachable, check_digest
from edgelm_export.hub_files import before_weights, cached_snapshot, indexed, is_commit, usable, wanted_files

LOOKUP_SECONDS = 30.0
_LOG = logging.getLogger(__name__)
# Errors of the transport, whichever HTTP library the installed huggingface-hub uses.
_TRANSPORTS = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}


@dataclass(frozen=True)
class Listing:
    """What the hub says about a revision; `sha256` knows the large files only."""

    commit: str
    sizes: Mapping[str, int]
    sha256: Mapping[str, str]


def fetch_from_hub(
    wanted: HubSource, *, offline: bool, start: StartProgress, seconds: float = LOOKUP_SECONDS
) -> Source:
    """A repository's checkpoint at one commit, from the hub or from its cache; digests the hub promised are checked.

    Args:
        wanted: repository, revision and, for GGUF repositories, the file.
        offline: use the cache alone.
        start: opens the progress bars.
        seconds: how long the hub may take to answer the first question.

    Raises:
        CheckpointError: no such repository, revision or file; no permission; nothing to read; offline and not cached.
        Unreachable: the hub does not answer, or the transfer broke off.
        CorruptFile: a file is not what the hub promised.
    """
    constants = library().constants
    cached = find_cached(wanted)
    if cached is not None and is_commit(wanted.revision):
        return _checked(wanted, *cached, {}, start)
    if offline or constants.HF_HUB_OFFLINE:
        if cached is None:
            raise CheckpointError(
                f"{wanted.id} ({wanted.revision}) is not complete in the cache {constants.HF_HUB_CACHE} and --offline "
                "(or HF_HUB_OFFLINE) forbids fetching it: run once with the network"
            )
        return _checked(wanted, *cached, {}, start)
    try:
        listing = look_up(wanted, seconds)
    except Unreachable as error:
        if cached is None:
            raise
        _LOG.warning("%s; using commit %s, which was fetched before", error, cached[0].name)
        return _checked(wanted, *cached, {}, start)
    snapshot = _download(wanted, listing, start)
    path = usable(snapshot, wanted.file)
    if path is None:
        raise CheckpointError(
            f"{wanted.id} at {snapshot.name} lacks shards that its index names: choose another --revision"
        )
    return _checked(wanted, snapshot, path, listing.sha256, start)


def find_cached(wanted: HubSource) -> tuple[Path, Path] | None:
    """Snapshot folder and checkpoint of what the cache holds completely; asks nobody.

    Raises:
        CheckpointError: huggingface-hub is not installed.
    """
    snapshot = cached_snapshot(_cache_folder(), wanted.id, wanted.revision)
    path = None if snapshot is None else usable(snapshot, wanted.file)
    return None if snapshot is None or path is None else (snapshot, path)


def library() -> Any:
    """huggingface-hub.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise CheckpointError(
            "huggingface-hub is needed for models from a hub and is not installed: pip install 'edgelm[export]'"
        ) from error
    return huggingface_hub


def endpoint() -> str:
    """The hub's address."""
    return library().constants.ENDPOINT


def _cache_folder() -> Path:
    return Path(library().constants.HF_HUB_CACHE)


def look_up(wanted: HubSource, seconds: float) -> Listing:
    """Asks for a revision's commit and files, for no longer than `seconds` in all.

    The libraries' own timeouts hold for one address at a time and not for the name lookup, so that a dead network can
    take minutes: the question is asked by a thread that is left behind.
    """
    answer: list[Listing | CheckpointError | BaseException] = []
    thread = threading.Thread(target=lambda: answer.append(_ask(wanted, seconds)), name="edgelm-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise Unreachable(f"{endpoint()} did not answer within {seconds:g} s: check the network")
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def _ask(wanted: HubSource, seconds: float) -> Listing | BaseException:
    try:
        info = (
            library()
            .HfApi(endpoint=endpoint())
            .model_info(wanted.id, revision=wanted.revision, timeout=seconds, files_metadata=True)
        )
    except Exception as error:
        return explained(error, wanted)
    files = info.siblings or []
    return Listing(
        commit=info.sha,
        sizes={file.rfilename: file.size or 0 for file in files},
        sha256={file.rfilename: file.lfs.sha256 for file in files if file.lfs},
    )


def _download(wanted: HubSource, listing: Listing, start: StartProgress) -> Path:
    small, weights = wanted_files(listing.sizes.keys(), wanted.file, wanted.id)
    first, rest = before_weights(small, weights)
    snapshot = _fetch(wanted, listing, first, wanted.revision, start) if first else None
    # The weights come last: a snapshot that has them has everything, which is what the cache is asked later.
    shards = rest if snapshot is None else indexed(snapshot, rest)
    return _fetch(wanted, listing, shards, wanted.revision if snapshot is None else listing.commit, start)


def _fetch(wanted: HubSource, listing: Listing, names: Sequence[str], revision: str, start: StartProgress) -> Path:
    """The snapshot with these files in it; what was begun before goes on where it stopped."""
    folder = _cache_folder() / f"models--{wanted.id.replace('/', '--')}"
    snapshot = folder / "snapshots" / listing.commit
    missing = sum(listing.sizes[name] for name in names if not (snapshot / name).is_file())
    _check_room(wanted, folder / "blobs", missing)
    patterns = [glob.escape(name) for name in names]
    try:
        with _quiet_bars(), watch_folder(folder / "blobs", missing, f"Downloading {wanted.id}", start):
            fetched = library().snapshot_download(
                wanted.id, revision=revision, allow_patterns=patterns, endpoint=endpoint()
            )
    except Exception as error:
        raise explained(error, wanted)  # noqa: B904 - it chains the original itself, or is the original
    if Path(fetched).name != listing.commit:
        raise Unreachable(f"{wanted.id} ({wanted.revision}) was changed on the hub at this very moment: try again")
    return snapshot


def _check_room(wanted: HubSource, blobs: Path, missing: int) -> None:
    """Refuses before anything is downloaded what the disk cannot hold.

    Raises:
        CheckpointError: too little space.
    """
    needed = missing - sum(file.stat().st_size for file in blobs.glob("*.incomplete"))
    free = shutil.disk_usage(next(folder for folder in blobs.parents if folder.exists())).free
    if needed > free:
        raise CheckpointError(
            f"{wanted.id} needs {needed / 1e6:,.0f} MB more and the disk of {library().constants.HF_HUB_CACHE} has "
            f"{free / 1e6:,.0f} MB free: make room, or set HF_HOME to another folder"
        )


def _checked(
    wanted: HubSource, snapshot: Path, path: Path, promised: Mapping[str, str], start: StartProgress
) -> Source:
    """Checks every file whose SHA-256 is known: from the hub's answer, or as the name of its blob in the cache."""
    names = [item.relative_to(snapshot).as_posix() for item in snapshot.rglob("*") if item.is_file()]
    digests: dict[str, str] = {}
    for name in itertools.chain(*wanted_files(names, wanted.file, wanted.id)):
        file = snapshot / name
        # One step only: huggingface-hub 2 may link the blob on to a store with names of another kind.
        blob = Path(os.readlink(file)).name if file.is_symlink() else ""
        expected = promised.get(name, blob)
        if re.fullmatch(r"[0-9a-f]{64}", expected):
            check_digest(file, expected, f"{wanted.id} at {snapshot.name}", start)
            digests[name if path.is_dir() else path.name] = expected
    where = wanted.id if path.is_dir() else f"{wanted.id}/{path.relative_to(snapshot).as_posix()}"
    return Source(path, where, snapshot.name, digests)


@contextmanager
def _quiet_bars() -> Generator[None]:
    """Keeps huggingface-hub's own bars off the terminal while ours is there."""
    import huggingface_hub.utils as utils

    hidden: Callable[[], bool] = utils.are_progress_bars_disabled
    if hidden():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where HF_HUB_DISABLE_PROGRESS_BARS=0 overrules us, which is fine
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def explained(error: BaseException, wanted: HubSource) -> BaseException:
    """A transport error in our words, with what to do; anything that is not one comes back as it is."""
    hub = library()
    cause = error.__cause__
    # The library says "not found locally" when the network failed and its cache had nothing.
    if isinstance(error, hub.errors.LocalEntryNotFoundError) and cause is not None:
        return explained(cause, wanted)
    found = _refusal(error, wanted, hub) or _breakdown(error, wanted, hub)
    if found is None:
        return error
    found.__cause__ = error
    return found


def _refusal(error: BaseException, wanted: HubSource, library: Any) -> CheckpointError | None:
    """The hub answered, and the answer is no."""
    errors, hub = library.errors, endpoint()
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{wanted.id} is gated: accept its owner's terms at {hub}/{wanted.id}, then log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"{wanted.id} has no revision {wanted.revision!r}: see {hub}/{wanted.id}/tree/main for those it has"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return CheckpointError(
            f"{hub} has no repository {wanted.id} that you may read, and there is no such folder here: "
            "check the spelling; if it is private, log in with `hf auth login`"
        )
    if isinstance(error, errors.HFValidationError):
        return CheckpointError(f"{wanted.id!r} cannot be a repository's id ({_first_line(error)}): write owner/name")
    if isinstance(error, errors.HfHubHTTPError) and status is not None:
        return Unreachable(f"{hub} answered with HTTP status {status} for {wanted.id}: try again later")
    return None


def _breakdown(error: BaseException, wanted: HubSource, library: Any) -> CheckpointError | None:
    """Nobody answered, the transfer broke off, or the disk refuses."""
    hub, reason = endpoint(), _first_line(error)
    packages = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return CheckpointError(
            f"cannot write to {library.constants.HF_HUB_CACHE} ({error.strerror}): make room, or set HF_HOME to "
            "another folder"
        )
    if packages & _TRANSPORTS or isinstance(error, ConnectionError | TimeoutError):
        return Unreachable(
            f"{hub} cannot be reached ({_first_line(_root(error))}): check the network, HF_ENDPOINT and proxies"
        )
    if isinstance(error, OSError):
        return Unreachable(f"the transfer of {wanted.id} broke off ({reason}): run it again to go on from there")
    return None


def _root(error: BaseException) -> BaseException:
    """What went wrong first: the libraries wrap a socket's plain words several times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
