"""Reading small files that may lie: every failure is a CheckpointError that names the file and what to do."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from edgelm.errors import CheckpointError, CorruptFile
from edgelm_export.wording import listed

MAX_JSON_BYTES = 32 << 20  # the largest real header or index has about 15 MiB

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT_PICKLE = (
    "convert it once, where torch and transformers are installed and you trust it: "
    "`python -c \"from transformers import CLASS; CLASS.from_pretrained('OLD').save_pretrained('NEW')\"`, "
    "CLASS being what its config.json names under architectures"
)


def corrupt(file: Path, what: str) -> CorruptFile:
    """The error for a file that contradicts itself."""
    return CorruptFile(f"{file}: {what}; the file is damaged or incomplete, download it again")


def shown(name: str) -> str:
    """A name from a file for use in a message: control characters escaped, length bounded."""
    return repr(name if len(name) <= 100 else f"{name[:97]}...")


def is_plain_name(name: str) -> bool:
    """Whether a terminal can show a tensor name: no control characters, no halves of surrogate pairs."""
    return 0 < len(name) <= 1000 and name.isprintable()


def exists(file: Path) -> bool:
    """Whether the path leads anywhere; False for paths that the operating system refuses, such as overlong names."""
    return os.path.exists(file)


def listing(folder: Path) -> str:
    """What a folder holds, for a message: at most eight names."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from error
    return listed([*map(shown, names)], ", ") or "nothing"


def file_size(file: Path) -> int:
    """The size in bytes of a regular file.

    Raises:
        CheckpointError: it is missing, out of reach, or no regular file (opening a pipe would block).
    """
    try:
        status = file.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise _unreadable(file, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{file}: is not a regular file; give the file itself")
    return status.st_size


@contextmanager
def opened(file: Path) -> Iterator[io.FileIO]:
    """The file open for unbuffered reading; what the operating system refuses becomes a CheckpointError."""
    try:
        with io.FileIO(file) as handle:
            yield handle
    except OSError as error:
        raise _unreadable(file, error) from error


def read_bytes(file: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """The content of a small file.

    Raises:
        CheckpointError: it cannot be read.
        CorruptFile: it has more than `limit` bytes, or is a Git LFS pointer.
    """
    size = file_size(file)
    if size > limit:
        raise corrupt(file, f"has {size:,} bytes, more than the {limit:,} that such a file may have")
    with opened(file) as handle:
        data = handle.readall()
    refuse_pointer(file, data)
    return data


def parse_object(file: Path, data: bytes, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> dict[str, Any]:
    """A JSON object; `hook` is the `object_pairs_hook` of `json.loads`.

    Raises:
        CorruptFile: the bytes are not UTF-8, not JSON, nested too deeply, made to fill memory, or not an object.
    """
    value = _parse(file, data, hook)
    if not isinstance(value, dict):
        raise corrupt(file, f"holds a JSON {type(value).__name__} where an object was expected")
    return cast(dict[str, Any], value)


def parse_list(file: Path, data: bytes) -> list[Any]:
    """A JSON array; the errors of `parse_object`."""
    value = _parse(file, data)
    if not isinstance(value, list):
        raise corrupt(file, f"holds a JSON {type(value).__name__} where an array was expected")
    return cast(list[Any], value)


def _parse(file: Path, data: bytes, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    # Parsed, an empty list takes 25 times its two bytes. Real files have at most one bracket in 17 bytes.
    if data.count(b"[") + data.count(b"{") > 4096 + len(data) // 12:
        raise corrupt(file, "its JSON is little but brackets")
    try:
        return json.loads(data.decode(), object_pairs_hook=hook)
    except UnicodeDecodeError as error:
        raise corrupt(file, f"its JSON is not UTF-8 text at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise corrupt(file, f"invalid JSON at line {error.lineno} column {error.colno} ({error.msg})") from error
    except RecursionError as error:
        raise corrupt(file, "invalid JSON (nested too deeply)") from error
    except ValueError as error:
        raise corrupt(file, "invalid JSON (a number of thousands of digits)") from error


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a small file; the errors of `read_bytes` and `parse_object`."""
    return parse_object(file, read_bytes(file))


def refuse_pointer(file: Path, head: bytes) -> None:
    """Names the commonest mistake, a clone without its large files.

    Raises:
        CorruptFile: `head` is the beginning of a Git LFS pointer.
    """
    if head[:8] == b"version ":
        raise CorruptFile(f"{file}: is only a Git LFS pointer; run `git lfs pull` in its folder, or download it again")


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or str(error)
    return CheckpointError(f"{file}: cannot be read ({reason}); check the path and its permissions")
