"""A GGUF file's header in, metadata as Python values and the tensor table out; no count or length goes unchecked.

Layout (ggml's docs/gguf.md), little-endian: magic, version, tensor count, key count; keys; tensor table; padding; data.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.errors import UnsupportedConfig
from edgelm_export.checkpoint.files import corrupt, file_size, is_plain_name, opened, refuse_pointer, shown

_MAX_HEADER_BYTES = 256 << 20
_MAX_ENTRIES = 1 << 17  # keys, or tensors; real files have under 10,000
_MAX_ITEMS = 4 << 20  # elements of all arrays together; the largest vocabularies need a third of it
_MAX_AXES = 4
_STRING, _ARRAY = 8, 9
_SCALARS = dict(enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"))) | {10: "<u8", 11: "<i8", 12: "<f8"}


@dataclass(frozen=True)
class TensorEntry:
    """A row of the tensor table; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]  # row-major, the reverse of the file's order
    type_id: int
    offset: int


@dataclass(frozen=True)
class Header:
    """All that precedes the data, which starts at `data_start` and has `data_size` bytes."""

    metadata: dict[str, Any]
    entries: list[TensorEntry]
    alignment: int
    data_start: int
    data_size: int


def read_header(file: Path) -> Header:
    """Reads and checks the header.

    Raises:
        CorruptFile: it is not GGUF, or a count, length, type or name cannot be true.
        UnsupportedConfig: big-endian, or a version other than 2 and 3.
        CheckpointError: the file cannot be read.
    """
    size = file_size(file)
    with opened(file) as raw:
        cursor = _Cursor(file, io.BufferedReader(raw, 1 << 20), size)
        num_tensors, num_keys = cursor.start()
        metadata = cursor.metadata(num_keys)
        entries = cursor.entries(num_tensors)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise corrupt(file, f"general.alignment is {shown(str(alignment))}, not a power of two")
        data_start = -(-cursor.position // alignment) * alignment
        return Header(metadata, entries, alignment, data_start, max(0, size - data_start))


class _Cursor:
    """Reads forward through the header; never beyond the file, and never more than the limits above."""

    def __init__(self, file: Path, handle: io.BufferedReader, size: int) -> None:
        self._file, self._handle, self._size = file, handle, size
        self._items_left = _MAX_ITEMS
        self.position = 0

    def start(self) -> tuple[int, int]:
        """Checks magic and version; the number of tensors and of keys."""
        refuse_pointer(self._file, self._handle.peek(8))
        magic = self._take(4, "the magic number")
        if magic != b"GGUF":
            raise corrupt(self._file, f"does not begin with GGUF but with {magic!r}, so it is no GGUF file")
        version = self._number("<u4", "the version")
        if version and version & 0xFFFF == 0:
            raise UnsupportedConfig(f"{self._file}: is a big-endian GGUF file; convert it again as little-endian")
        if version not in (2, 3):
            raise UnsupportedConfig(
                f"{self._file}: is GGUF version {version}, edgelm reads 2 and 3; convert it again with llama.cpp"
            )
        num_tensors, num_keys = struct.unpack("<QQ", self._take(16, "the counts"))
        for count, least_bytes, what in ((num_tensors, 33, "tensors"), (num_keys, 13, "keys")):
            self._check_count(count, least_bytes, _MAX_ENTRIES, what)
        return num_tensors, num_keys

    def metadata(self, count: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for index in range(count):
            key = self._string(f"key {index + 1} of {count}")
            where = f"key {shown(key)}"
            self._check_name(key, where, result)
            result[key] = self._value(self._number("<u4", where), where)
        return result

    def entries(self, count: int) -> list[TensorEntry]:
        result: list[TensorEntry] = []
        names: set[str] = set()
        for index in range(count):
            name = self._string(f"the name of tensor {index + 1} of {count}")
            where = f"tensor {shown(name)}"
            self._check_name(name, where, names)
            names.add(name)
            axes = self._number("<u4", where)
            if not 1 <= axes <= _MAX_AXES:
                raise corrupt(self._file, f"{where}: has {axes:,} axes, and 1 to {_MAX_AXES} are possible")
            shape = struct.unpack(f"<{axes}Q", self._take(8 * axes, where))[::-1]
            if not all(0 < length < 1 << 40 for length in shape):
                raise corrupt(self._file, f"{where}: impossible shape {list(shape)}")
            type_id, offset = struct.unpack("<IQ", self._take(12, where))
            result.append(TensorEntry(name, shape, type_id, offset))
        return result

    def _value(self, kind: int, where: str) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind], where)
        if kind == _STRING:
            return self._string(where)
        if kind != _ARRAY:
            raise corrupt(self._file, f"{where}: unknown value type {kind}")
        kind, count = struct.unpack("<IQ", self._take(12, where))
        if kind == _STRING:
            self._check_count(count, 8, self._items_left, f"strings in {where}")
            self._items_left -= count
            return [self._string(where) for _ in range(count)]
        if kind not in _SCALARS:
            what = "arrays, which no reader takes" if kind == _ARRAY else f"unknown value type {kind}"
            raise corrupt(self._file, f"{where}: is an array of {what}")
        dtype = np.dtype(_SCALARS[kind])
        self._check_count(count, dtype.itemsize, self._items_left, f"values in {where}")
        self._items_left -= count
        return np.frombuffer(self._take(count * dtype.itemsize, where), dtype).tolist()

    def _check_name(self, name: str, where: str, known: Container[str]) -> None:
        if not is_plain_name(name):
            raise corrupt(self._file, f"{where}: is not a usable name")
        if name in known:
            raise corrupt(self._file, f"{where}: appears twice")

    def _number(self, dtype: str, where: str) -> Any:
        return np.frombuffer(self._take(np.dtype(dtype).itemsize, where), dtype)[0].item()

    def _string(self, where: str) -> str:
        length = int.from_bytes(self._take(8, where), "little")
        try:
            return self._take(length, where).decode()
        except UnicodeDecodeError as error:
            raise corrupt(self._file, f"{where}: a string is not UTF-8") from error

    def _check_count(self, count: int, least_bytes: int, most: int, what: str) -> None:
        if count * least_bytes > self._size - self.position:
            raise corrupt(self._file, f"says that {count:,} {what} follow, more than the file has room for")
        if count > most:
            raise corrupt(self._file, f"says that {count:,} {what} follow, and edgelm reads {most:,} at most")

    def _take(self, count: int, where: str) -> bytes:
        self.position += count
        data = self._handle.read(count) if self.position <= min(self._size, _MAX_HEADER_BYTES) else b""
        if len(data) != count:
            limit = "file" if self.position > self._size else "largest header that edgelm reads"
            raise corrupt(self._file, f"{where}: runs past the end of the {limit}")
        return data
