"""A folder in hub layout in, a Checkpoint out.

The safetensors library maps whole files, lets duplicate names pass and names no tensor in its errors, so the header is
read here. Format (its README): 8 bytes of header length, a JSON header, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint import pytorch
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.checkpoint.files import (
    CONVERT_PICKLE,
    MAX_JSON_BYTES,
    PICKLE_SUFFIXES,
    corrupt,
    exists,
    file_size,
    is_plain_name,
    listing,
    opened,
    parse_object,
    read_bytes,
    read_object,
    refuse_pointer,
    shown,
)
from edgelm_export.checkpoint.slow_tokenizer import SLOW_FILES, VOCABULARIES, convert
from edgelm_export.checkpoint.storage import EIGHT_BIT_FLOATS, PLAIN_TYPES, Storage, byte_storage, plain_storage

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_TOKENIZER_BYTES = 256 << 20
_MAX_AXES, _MAX_VALUES = 8, 1 << 48
_LISTED_ONLY = {  # name, bytes a unit, values a unit
    "F6_E2M3": ("float6_e2m3fn", 3, 4),
    "F6_E3M2": ("float6_e3m2fn", 3, 4),
    "F4": ("float4_e2m1fn", 1, 2),
    "C64": ("complex64", 8, 1),
}


def open_hub_folder(folder: Path) -> Checkpoint:
    """Opens config.json, the safetensors files and what stands beside them; reads headers only.

    Raises:
        CheckpointError: the folder lacks a config or weights, holds pickles only, or two sets of weights.
        CorruptFile: a header, an offset, a size or the index cannot be true.
    """
    config_file, generation_file = folder / "config.json", folder / "generation_config.json"
    if not exists(config_file):
        raise _incomplete(folder, "no config.json")
    config = read_object(config_file)
    generation = read_object(generation_file) if exists(generation_file) else {}
    weight_files, tensors = _weights(folder)
    texts = [folder / name for name in TOKENIZER_FILES if exists(folder / name)]
    slow = [] if folder / "tokenizer.json" in texts else _slow_tokenizer(folder)
    files = [config_file, *([generation_file] if exists(generation_file) else []), *weight_files, *texts, *slow]

    def tokenizer_files() -> dict[str, bytes]:
        found = {file.name: read_bytes(file, _MAX_TOKENIZER_BYTES) for file in texts}
        if slow:
            found |= convert(folder, found | {file.name: read_bytes(file) for file in slow}, config)
        return found

    return Checkpoint("hf", config, generation, tensors, tuple(files), tokenizer_files)


def read_safetensors(file: Path) -> dict[str, LazyTensor]:
    """The tensors of one safetensors file, by name, in the header's order.

    Raises:
        CorruptFile: the header is not what the format allows, or does not fit the file.
        CheckpointError: the file cannot be read.
    """
    header, start, size = _header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise corrupt(file, "its __metadata__ is not an object of strings")
    tensors: dict[str, LazyTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        begin, end, tensors[name] = _tensor(file, name, entry, start)
        spans.append((begin, end, name))
    _check_spans(file, spans, size)
    return tensors


def _slow_tokenizer(folder: Path) -> list[Path]:
    """The files that tokenizer.json can be made of, if there is a vocabulary among them."""
    found = [folder / name for name in SLOW_FILES if exists(folder / name)]
    return found if any(file.name in VOCABULARIES for file in found) else []


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    """The parsed header, where the data starts, and how many bytes of it there are."""
    size = file_size(file)
    with opened(file) as handle:
        head = handle.read(8)
        refuse_pointer(file, head)
        if len(head) < 8:
            raise corrupt(file, f"has {size} bytes, too few for a safetensors header")
        length = int.from_bytes(head, "little")
        if length > size - 8:
            raise corrupt(file, f"says that its header has {length:,} bytes, but only {size - 8:,} follow")
        if length > MAX_JSON_BYTES:
            raise corrupt(file, f"has a header of {length:,} bytes, more than the {MAX_JSON_BYTES:,} that edgelm reads")
        text = handle.read(length)

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise corrupt(file, f"its header names {shown(twice)} twice")
        return result

    return parse_object(file, text, no_duplicates), 8 + length, size - 8 - length


def _tensor(file: Path, name: str, entry: Any, start: int) -> tuple[int, int, LazyTensor]:
    """Where in the data one tensor begins and ends, and the tensor."""
    where = f"tensor {shown(name)}"
    if not is_plain_name(name):
        raise corrupt(file, f"{where}: is not a usable name")
    entry = cast(dict[str, Any], entry) if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise corrupt(file, f"{where}: dtype, shape or data_offsets are missing, negative or of the wrong kind")
    if dtype in PLAIN_TYPES:
        storage = plain_storage(file, start + offsets[0], kind := PLAIN_TYPES[dtype])
    elif dtype in EIGHT_BIT_FLOATS:
        storage = byte_storage(file, start + offsets[0], kind := EIGHT_BIT_FLOATS[dtype])
    elif dtype in _LISTED_ONLY:
        kind, unit_bytes, unit_values = _LISTED_ONLY[dtype]
        storage = Storage(file, start + offsets[0], unit_bytes, unit_values, None)
    else:
        raise corrupt(file, f"{where}: unknown dtype {shown(dtype)}")
    if len(shape) > _MAX_AXES or math.prod(size or 1 for size in shape) > _MAX_VALUES:
        raise corrupt(file, f"{where}: absurd shape {shown(str(shape))}")
    values, (begin, end) = math.prod(shape), offsets
    if values * storage.unit_bytes != (end - begin) * storage.unit_values:
        needed = -(-values * storage.unit_bytes // storage.unit_values)
        raise corrupt(file, f"{where}: {kind} {shape} needs {needed:,} bytes, offsets {offsets} hold {end - begin:,}")
    return begin, end, storage.tensor(name, kind, tuple(shape))


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in cast(list[Any], value))


def _check_spans(file: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """The format wants every byte of the data to belong to exactly one tensor."""
    position, previous = 0, "the header"
    for begin, end, name in sorted(spans):
        where = f"tensor {shown(name)}"
        if end > size:
            raise corrupt(file, f"{where}: ends at byte {end:,} of the data, but the file holds {size:,}")
        if begin < position:
            raise corrupt(file, f"{where}: overlaps {previous} by {position - begin:,} bytes")
        if begin > position:
            raise corrupt(file, f"{where}: {begin - position:,} bytes before it belong to no tensor")
        position, previous = end, where
    if position < size:
        raise corrupt(file, f"{size - position:,} bytes after {previous} belong to no tensor")


def _weights(folder: Path) -> tuple[list[Path], dict[str, LazyTensor]]:
    """The weight files (the index among them) and all their tensors."""
    if not any(folder.glob("*.safetensors")) and not exists(folder / _INDEX) and pytorch.can_read(folder):
        return _weights_in(folder, pytorch.SINGLE, pytorch.INDEX, pytorch.read_pytorch)
    if not exists(folder / _SINGLE) and not exists(folder / _INDEX):
        return [file := _only_safetensors(folder)], read_safetensors(file)
    return _weights_in(folder, _SINGLE, _INDEX, read_safetensors)


def _weights_in(
    folder: Path, one: str, parts: str, read: Callable[[Path], dict[str, LazyTensor]]
) -> tuple[list[Path], dict[str, LazyTensor]]:
    """Those of a folder whose weights are in one file, or in shards that an index lists."""
    single, index = folder / one, folder / parts
    if not exists(index):
        return [single], read(single)
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    if exists(single) and one not in shards:
        raise CheckpointError(f"{folder}: holds {one} and other shards too; delete the set that is not meant")
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        if not exists(folder / shard):
            raise corrupt(index, f"names {shown(shard)}, which is not in the folder")
        held = read(folder / shard)
        lacking = [name for name, place in weight_map.items() if place == shard and name not in held]
        if lacking:
            raise corrupt(folder / shard, f"lacks {len(lacking)} tensors of {parts}, {shown(lacking[0])} the first")
        for name, tensor in held.items():
            if name in tensors and name not in weight_map:
                raise corrupt(folder / shard, f"tensor {shown(name)}: is in an earlier shard too and not in {parts}")
            if weight_map.get(name, shard) == shard:
                tensors[name] = tensor
    return [index, *(folder / shard for shard in shards)], tensors


def _weight_map(index: Path) -> Mapping[str, str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise corrupt(index, "has no weight_map from tensor names to files")
    for name, shard in cast(dict[str, Any], weight_map).items():
        # Names only: a hub cache links its files to elsewhere, so resolving the path would refuse what is fine.
        if not isinstance(shard, str) or shard in {"", ".", ".."} or set(shard) & set('/\\:"\0'):
            raise corrupt(index, f"tensor {shown(name)}: {shown(str(shard))} is not the name of a file in this folder")
    return cast(dict[str, str], weight_map)


def _only_safetensors(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise _incomplete(folder, f"several .safetensors files and no {_INDEX}")
    raise _incomplete(folder, "no weights")


def _incomplete(folder: Path, what: str) -> CheckpointError:
    if any(any(folder.glob(f"*{end}")) for end in PICKLE_SUFFIXES) and not any(folder.glob("*.safetensors")):
        return CheckpointError(
            f"{folder}: has pickled weights only, which are never read because opening them can run code; download the "
            f"safetensors version, install torch, which reads {pytorch.SINGLE} without running any, or {CONVERT_PICKLE}"
        )
    return CheckpointError(
        f"{folder}: {what}; expected config.json and {_SINGLE}, or {_INDEX} and its shards; found {listing(folder)}"
    )
