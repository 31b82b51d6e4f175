"""Checkpoint files written byte by byte, so that tests can also write false ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray

SAFETENSORS_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}
GGUF_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
}
_GGUF_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def safetensors_header(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The header, as JSON would hold it, of a file with these tensors one after the other."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    position = 0
    for name, values in tensors.items():
        span = [position, position + values.nbytes]
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": span,
        }
        position += values.nbytes
    return header


def safetensors_bytes(header: Mapping[str, Any] | bytes, data: bytes, length: int | None = None) -> bytes:
    """A file of this header and data; `length` overrides what it says of the header's size."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes a valid safetensors file."""
    data = b"".join(np.ascontiguousarray(values).tobytes() for values in tensors.values())
    path.write_bytes(safetensors_bytes(safetensors_header(tensors, metadata), data))
    return path


def write_hub_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    *,
    shards: int = 1,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Writes config.json, the weights in one file or in several with their index, and any further files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
        return folder
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        write_safetensors(folder / file, part, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def gguf_string(text: str | bytes) -> bytes:
    """A length and UTF-8 bytes."""
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_key(name: str | bytes, value: Any, kind: int | None = None) -> bytes:
    """A metadata key; without a `kind` integers are u32 or i64, floats f32, lists like their first element."""
    kind = _kind_of(value) if kind is None else kind
    return gguf_string(name) + struct.pack("<I", kind) + _gguf_value(value, kind)


def gguf_entry(name: str | bytes, file_dims: Sequence[int], type_id: int, offset: int) -> bytes:
    """A row of the tensor table; `file_dims` in the file's order, the reverse of numpy's."""
    dims = struct.pack(f"<I{len(file_dims)}Q", len(file_dims), *file_dims)
    return gguf_string(name) + dims + struct.pack("<IQ", type_id, offset)


def gguf_bytes(
    keys: Sequence[bytes],
    entries: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
    alignment: int = 32,
) -> bytes:
    """A file of these parts; `counts` (tensors, keys) overrides what it says of their number."""
    num_tensors, num_keys = counts
    num_tensors = len(entries) if num_tensors is None else num_tensors
    num_keys = len(keys) if num_keys is None else num_keys
    header = magic + struct.pack("<IQQ", version, num_tensors, num_keys) + b"".join(keys) + b"".join(entries)
    return header + bytes(-len(header) % alignment) + data


def gguf_tensors(
    tensors: Mapping[str, NDArray[Any] | tuple[str, NDArray[Any]]], alignment: int = 32
) -> tuple[list[bytes], bytes]:
    """The tensor table and the data; see `write_gguf` for what a tensor may be."""
    entries: list[bytes] = []
    data = b""
    for name, given in tensors.items():
        kind, values = (GGUF_DTYPES[given.dtype.name], given) if isinstance(given, np.ndarray) else given
        type_id = GGMLQuantizationType[kind]
        unit_values, unit_bytes = GGML_QUANT_SIZES[type_id]
        if not isinstance(given, np.ndarray) and values.dtype != np.uint8:
            values = quantize(values, type_id)
        shape = list(values.shape)
        if not isinstance(given, np.ndarray):  # values are bytes now
            width = shape[-1] * values.dtype.itemsize
            shape[-1] = width // unit_bytes * unit_values
        entries.append(gguf_entry(name, shape[::-1], int(type_id), len(data)))
        data += np.ascontiguousarray(values).tobytes()
        data += bytes(-len(data) % alignment)
    return entries, data


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any] | tuple[str, NDArray[Any]]],
    *,
    version: int = 3,
) -> Path:
    """Writes a valid GGUF file.

    A tensor is an array stored as it is, or (type name, float32 array) to be quantized, or (type name, uint8
    [..., row_bytes]) that is quantized already.
    """
    alignment = metadata.get("general.alignment", 32)
    entries, data = gguf_tensors(tensors, alignment)
    keys = [gguf_key(name, value) for name, value in metadata.items()]
    path.write_bytes(gguf_bytes(keys, entries, data, version=version, alignment=alignment))
    return path


def _kind_of(value: Any) -> int:
    if isinstance(value, bool):
        return 7
    if isinstance(value, int):
        return 4 if 0 <= value < 1 << 32 else 11
    return {float: 6, str: _STRING, bytes: _STRING, list: _ARRAY}[type(value)]


def _gguf_value(value: Any, kind: int) -> bytes:
    if kind == _STRING:
        return gguf_string(value)
    if kind != _ARRAY:
        return struct.pack(_GGUF_SCALARS[kind], value)
    item = _kind_of(value[0]) if value else _STRING
    if item == 4 and min(value) < 0:
        item = 5
    return struct.pack("<IQ", item, len(value)) + b"".join(_gguf_value(element, item) for element in value)


def mixed_gguf(seed: int) -> tuple[bytes, int]:
    """A GGUF file with tensors of four types and a small tokenizer, to be damaged, and the size of its header."""
    values = np.random.default_rng(seed).standard_normal((3, 256)).astype(np.float32)
    raw = np.random.default_rng(seed).integers(0, 256, (3, 210), dtype=np.uint8)
    tensors = {"a": values, "b": ("Q4_1", values), "c": ("Q6_K", raw), "d": values.astype(np.float16)}
    metadata = {
        "general.architecture": "llama",
        "general.alignment": 32,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<s>", "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": "{{ messages }}",
    }
    entries, data = gguf_tensors(tensors)
    whole = gguf_bytes([gguf_key(name, value) for name, value in metadata.items()], entries, data)
    return whole, len(whole) - len(data)
