"""Files that results are written to, by the ending of their name; a file takes its name only when it is complete."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from edgelm.errors import InvalidOption
from edgelm.replacing import replacing

Record = Mapping[str, Any]


class Sink(Protocol):
    """Where records go."""

    def write(self, records: Sequence[Record]) -> None:
        """Takes some more."""
        ...

    def close(self) -> None:
        """Completes the file."""
        ...


def as_plain(value: Any) -> Any:
    """Results as plain data: dataclasses become objects, arrays stay arrays."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list):
        return [as_plain(item) for item in cast("list[Any]", value)]
    return value


def to_json(record: Record) -> str:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False, default=_array_as_list)


@contextmanager
def open_output(path: Path, key: str, count: int) -> Generator[Sink]:
    """A file for `count` records whose results are called `key`; nothing is left behind when the block fails.

    Raises:
        InvalidOption: the name's ending is not known, its format cannot hold such results, or the file cannot be written.
    """
    if path.suffix not in _SINKS:
        raise InvalidOption(f"{path}: the output must end in {', '.join(_SINKS)}")
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(replacing(path, private=False))
        except OSError as error:
            raise InvalidOption(f"{path} cannot be written: {error.strerror}; choose another file with -o") from error
        sink = _SINKS[path.suffix](temporary, key, count)
        stack.callback(sink.close)
        yield sink


class _Lines:
    def __init__(self, path: Path, key: str, count: int) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, records: Sequence[Record]) -> None:
        self._file.writelines(to_json(record) + "\n" for record in records)

    def close(self) -> None:
        self._file.close()


class _Array:
    """One NumPy array; it needs results of one shape."""

    def __init__(self, path: Path, key: str, count: int) -> None:
        if key != "embedding":
            raise InvalidOption(f".npy holds embeddings only, not {key}; write them to .jsonl")
        self._path, self._key, self._count, self._done = path, key, count, 0
        self._rows: np.ndarray | None = None

    def write(self, records: Sequence[Record]) -> None:
        values = np.stack([record[self._key] for record in records])
        if self._rows is None:
            shape = (self._count, *values.shape[1:])
            self._rows = np.lib.format.open_memmap(self._path, "w+", values.dtype, shape)
        self._rows[self._done : self._done + len(values)] = values
        self._done += len(values)

    def close(self) -> None:
        if self._rows is None:
            with self._path.open("wb") as file:
                np.save(file, np.zeros((0, 0), np.float32))
        else:
            cast("np.memmap[Any, Any]", self._rows).flush()


class _Parquet:
    def __init__(self, path: Path, key: str, count: int) -> None:
        try:
            self._table, self._parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
        except ImportError as error:
            raise InvalidOption(
                "writing .parquet needs pyarrow, which is not installed: pip install pyarrow, or write .jsonl"
            ) from error
        self._path = path
        self._writer: Any = None

    def write(self, records: Sequence[Record]) -> None:
        plain = [{name: _listed(value) for name, value in record.items()} for record in records]
        table = self._table.Table.from_pylist(plain)
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table.cast(self._writer.schema))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


_SINKS: Mapping[str, Callable[[Path, str, int], Sink]] = {".npy": _Array, ".jsonl": _Lines, ".parquet": _Parquet}


def _listed(value: Any) -> Any:
    return list(cast("Iterable[Any]", value)) if isinstance(value, np.ndarray) else value


def _array_as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return cast("np.ndarray[Any, Any]", value).tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
