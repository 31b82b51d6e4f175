"""What a model keeps of earlier requests, in a file: rows out, the same rows in, for the package that computed them only.

    "edgelm state 1" and a line feed | bytes of the header, uint64 | header, JSON | keys and values, row by row | SHA-256 of all before it

The header names the package by its digest and lists the ids of every row; sizes follow from these. Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from edgelm.cuda import host_dtype
from edgelm.errors import StateError
from edgelm.prefix_cache import Kept
from edgelm.protocols import DecoderRows
from edgelm.replacing import replacing

NewRow = Callable[[int, str | None], DecoderRows]

_MAGIC = b"edgelm state 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


def write_state(path: Path, package: str, rows: Sequence[Kept]) -> None:
    """Writes rows; the file appears under its name when it is complete.

    Raises:
        StateError: the file cannot be written.
    """
    entries = [{"adapter": kept.adapter, "ids": kept.row.ids[0]} for kept in rows]
    header = json.dumps({"package": package, "rows": entries}).encode()
    head = _MAGIC + len(header).to_bytes(8, "little") + header
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            digest = hashlib.sha256()
            for part in _parts(head, rows):
                file.write(part)
                digest.update(part)
            file.write(digest.digest())
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error}") from error


def read_state(path: Path, package: str, vocab_size: int, new_row: NewRow) -> list[Kept]:
    """The rows of a file, each in a decoder that `new_row` makes for its number of positions and its adapter.

    Raises:
        StateError: the file cannot be read, is damaged, or was written with another package.
        ContextOverflow: a row is longer than the model was loaded for.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path, package, vocab_size, new_row)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise StateError(f"{path} is damaged ({error}); save the state again") from error


def _parts(head: bytes, rows: Sequence[Kept]) -> Iterator[bytes]:
    yield head
    for kept in rows:
        for array in kept.row.held(0):
            yield array.tobytes()


def _read(file: IO[bytes], path: Path, package: str, vocab_size: int, new_row: NewRow) -> list[Kept]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise StateError(f"{path} is no state that this edgelm wrote; save one with save_state")
    _check_digest(file, path)
    header = cast(dict[str, Any], json.loads(_exactly(file, int.from_bytes(_exactly(file, 8), "little"))))
    if header["package"] != package:
        raise StateError(f"{path} was saved with another package; load that one, or start without a state")
    rows: list[Kept] = []
    for entry in header["rows"]:
        ids, adapter = entry["ids"], entry["adapter"]
        if not ids or not all(type(token) is int and 0 <= token < vocab_size for token in ids):
            raise ValueError("a row is empty, or has ids that the vocabulary does not")
        row = new_row(len(ids), adapter)
        for array in row.hold(ids):
            array[...] = np.frombuffer(_exactly(file, array.nbytes), host_dtype(array.dtype)).reshape(array.shape)
        rows.append(Kept(row, adapter))
    _exactly(file, _DIGEST_BYTES)
    if file.read(1):
        raise ValueError("it is longer than its rows")
    return rows


def _exactly(file: IO[bytes], count: int) -> bytes:
    """The next bytes, which must be there; no more is allocated than the file has."""
    position = file.tell()
    if count > os.fstat(file.fileno()).st_size - position:
        raise ValueError("it is cut off")
    return file.read(count)


def _check_digest(file: IO[bytes], path: Path) -> None:
    """Compares the digest at the end with the contents, and goes back to where it was."""
    start, left, digest = file.tell(), os.fstat(file.fileno()).st_size - _DIGEST_BYTES, hashlib.sha256()
    file.seek(0)
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    if file.read() != digest.digest():
        raise StateError(f"{path} is damaged: its digest does not match; save the state again")
    file.seek(start)
