"""A .gguf file in, a Checkpoint out. Type tables and dequantization come from the gguf package.

Its reader takes 1.9 s and 160 MB for a vocabulary of 49,152 and trusts its input, hence `gguf_header`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgelm.errors import CheckpointError, UnsupportedConfig
from edgelm_export.checkpoint.base import Array, Bytes, Checkpoint, LazyTensor
from edgelm_export.checkpoint.files import corrupt, exists, shown
from edgelm_export.checkpoint.gguf_header import Header, TensorEntry, read_header
from edgelm_export.checkpoint.gguf_integers import gguf_grid
from edgelm_export.checkpoint.storage import PLAIN_TYPES, Storage, plain_storage

_LONGEST_KEPT = 64
_Made = TypeVar("_Made")
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def open_gguf(path: Path) -> Checkpoint:
    """Opens one file, or all parts of a split one given any of them; reads headers only.

    `config` is the metadata; of `tokenizer.*` arrays, those over 64 elements are left out and `<key>.length` is added.

    Raises:
        CorruptFile: a header, an offset or a size cannot be true.
        UnsupportedConfig: a byte order or version that is not read.
        CheckpointError: a part is missing, or a file cannot be read.
    """
    header = read_header(path)
    files = _parts(path, header.metadata)
    headers = [header if file == path else read_header(file) for file in files]
    if len(files) > 1:
        _check_parts(files, headers)
    tensors: dict[str, LazyTensor] = {}
    for file, part in zip(files, headers, strict=True):
        for name, tensor in _tensors(file, part).items():
            if tensors.setdefault(name, tensor) is not tensor:
                raise corrupt(file, f"tensor {shown(name)} is in an earlier part too")
    metadata = headers[0].metadata
    config, generation = _without_vocabulary(metadata), _generation_config(files[0], metadata)
    return Checkpoint("gguf", config, generation, tensors, tuple(files), partial(_tokenizer_files, files[0]))


def are_parts(files: Sequence[Path]) -> bool:
    """Whether these are the parts of one split file, going by their names."""
    names = [_PART.fullmatch(file.name) for file in files]
    return None not in names and len({(name["stem"], name["count"]) for name in names if name}) == 1


def _parts(path: Path, metadata: Mapping[str, Any]) -> list[Path]:
    if metadata.get("split.count", 1) in (0, 1):
        return [path]
    name = _PART.fullmatch(path.name)
    count = int(name["count"]) if name else 0
    if name is None or count != metadata["split.count"]:
        raise CheckpointError(f"{path}: is a part of a split file, so restore its name: NAME-00001-of-00003.gguf")
    files = [path.with_name(f"{name['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = [file.name for file in files if not exists(file)]
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} of {count} parts are missing; download {missing[0]} beside it")
    return files


def _check_parts(files: Sequence[Path], headers: Sequence[Header]) -> None:
    for number, (file, header) in enumerate(zip(files, headers, strict=True)):
        if (header.metadata.get("split.no"), header.metadata.get("split.count")) != (number, len(files)):
            raise corrupt(file, f"is not part {number + 1} of {len(files)}, though its name says so")
    expected, found = headers[0].metadata.get("split.tensors.count"), sum(len(header.entries) for header in headers)
    if expected not in (None, found):
        raise corrupt(files[0], f"says that its parts hold {expected} tensors, but they hold {found}")


def _tensors(file: Path, header: Header) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    end, previous = 0, ""
    for entry in sorted(header.entries, key=lambda entry: entry.offset):
        where = f"tensor {shown(entry.name)}"
        tensor = _tensor(file, header, entry, where)
        if entry.offset % header.alignment:
            raise corrupt(file, f"{where}: offset {entry.offset:,} is no multiple of the alignment {header.alignment}")
        if entry.offset < end:
            raise corrupt(file, f"{where}: overlaps {previous} by {end - entry.offset:,} bytes")
        end, previous = entry.offset + tensor.nbytes, where
        if end > header.data_size:
            raise corrupt(file, f"{where}: ends at byte {end:,} of the data, but the file holds {header.data_size:,}")
        tensors[entry.name] = tensor
    return tensors


def _tensor(file: Path, header: Header, entry: TensorEntry, where: str) -> LazyTensor:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(entry.type_id)
    except ValueError as error:
        raise corrupt(file, f"{where}: unknown type {entry.type_id} (perhaps known to a newer gguf package)") from error
    unit_values, unit_bytes = GGML_QUANT_SIZES[kind]
    if entry.shape[-1] % unit_values:
        raise corrupt(
            file, f"{where}: a row of {entry.shape[-1]} is no multiple of {kind.name}'s block of {unit_values}"
        )
    offset = header.data_start + entry.offset
    if kind.name in PLAIN_TYPES:
        return plain_storage(file, offset, PLAIN_TYPES[kind.name]).tensor(
            entry.name, PLAIN_TYPES[kind.name], entry.shape
        )
    decode = partial(_dequantize, kind, f"{file}: {where}")
    tensor = Storage(file, offset, unit_bytes, unit_values, decode).tensor(entry.name, kind.name, entry.shape)
    return replace(tensor, grid=gguf_grid(tensor, unit_bytes, unit_values, decode))


def _dequantize(kind: Any, where: str, piece: Bytes, values: Array) -> None:
    from gguf.quants import dequantize

    try:
        # As one row: the package loops over groups of 16 rows, which takes ten times as long where they are narrow.
        values[:] = dequantize(piece.reshape(1, -1), kind)[0]
    except NotImplementedError as error:
        raise UnsupportedConfig(
            f"{where} is stored as {kind.name}, which gguf cannot dequantize; take a file of another type"
        ) from error


def _without_vocabulary(metadata: Mapping[str, Any]) -> dict[str, Any]:
    lengths = {k: len(v) for k, v in metadata.items() if k.startswith("tokenizer.") and isinstance(v, list)}
    kept = {key: value for key, value in metadata.items() if lengths.get(key, 0) <= _LONGEST_KEPT}
    return kept | {f"{key}.length": length for key, length in lengths.items()}


def _generation_config(file: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    if "tokenizer.ggml.tokens" not in metadata:
        return {}
    from edgelm_export.checkpoint.gguf_tokenizer import end_token_ids

    return {"eos_token_id": _naming(file, end_token_ids, metadata)}


def _tokenizer_files(file: Path) -> Mapping[str, bytes]:
    # Read again: the vocabulary takes tens of megabytes, which the export must not carry from start to end.
    from edgelm_export.checkpoint.gguf_tokenizer import tokenizer_files

    return _naming(file, tokenizer_files, read_header(file).metadata)


def _naming(file: Path, make: Callable[[Mapping[str, Any]], _Made], metadata: Mapping[str, Any]) -> _Made:
    """What `make` makes of the metadata; its errors, which know keys only, get the file's name."""
    try:
        return make(metadata)
    except CheckpointError as error:
        raise type(error)(f"{file}: {error}") from error
