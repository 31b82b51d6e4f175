"""Files that lie: each ends in an error that names the file and the lie, at once and in little memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import CheckpointError, CorruptFile, UnsupportedConfig
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.checkpoint.files import MAX_JSON_BYTES
from edgelm_export.checkpoint.gguf import open_gguf
from edgelm_export.checkpoint.gguf_header import read_header
from edgelm_export.checkpoint.safetensors import read_safetensors
from tests.export.builders import (
    gguf_bytes,
    gguf_entry,
    gguf_key,
    gguf_string,
    safetensors_bytes,
    safetensors_header,
    write_hub_folder,
)

HUGE = (1 << 64) - 1
VALUES = np.arange(8, dtype=np.float32)


def _entry(begin: Any = 0, end: Any = 32, shape: Any = (8,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _safetensors(entries: dict[str, Any] | bytes, data: int = 32, length: int | None = None) -> bytes:
    return safetensors_bytes(entries, bytes(data), length)


SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has 0 bytes, too few for a safetensors header"),
    "seven bytes": (b"\0" * 7, "has 7 bytes, too few for a safetensors header"),
    "header past the end": (_safetensors({"x": _entry()}, 32, 1000), "its header has 1,000 bytes, but only"),
    "header of 2^64": (_safetensors({"x": _entry()}, 32, HUGE), "its header has 18,446,744,073,709,551,615 bytes"),
    "header cut short": (_safetensors({"x": _entry()}, 32, 20), r"invalid JSON at line 1 column \d+"),
    "git lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid",
        "only a Git LFS pointer; run `git lfs pull`",
    ),
    "not JSON": (_safetensors(b"{]"), r"invalid JSON at line 1 column 2"),
    "not UTF-8": (_safetensors(b'{"\xff": 1}'), "JSON is not UTF-8 text at byte 2"),
    "an array": (_safetensors(b"[]"), "holds a JSON list where an object was expected"),
    "brackets only": (_safetensors(b'{"x":[' + b"[]," * 500_000 + b"[]]}"), "its JSON is little but brackets"),
    "nested deeply": (_safetensors(b"[" * 4000), r"invalid JSON \(nested too deeply\)"),
    "endless number": (
        _safetensors(b'{"x": ' + b"9" * 5000 + b"}"),
        r"invalid JSON \(a number of thousands of digits\)",
    ),
    "metadata not strings": (
        _safetensors({"__metadata__": {"a": 1}, "x": _entry()}),
        "__metadata__ is not an object of",
    ),
    "metadata not an object": (
        _safetensors({"__metadata__": [], "x": _entry()}),
        "__metadata__ is not an object of str",
    ),
    "name twice": (_safetensors(b'{"x": {}, "x": {}}'), "its header names 'x' twice"),
    "key twice": (_safetensors(b'{"x": {"dtype": "F32", "dtype": "F16"}}'), "its header names 'dtype' twice"),
    "escape sequence as name": (_safetensors({"\x1b[2J": _entry()}), r"tensor '\\x1b\[2J': is not a usable name"),
    "half a surrogate as name": (_safetensors(b'{"\\ud800": {}}'), r"tensor '\\ud800': is not a usable name"),
    "no name": (_safetensors({"": _entry()}), "tensor '': is not a usable name"),
    "name of 2,000 letters": (_safetensors({"n" * 2000: _entry()}), r"tensor 'n{97}\.\.\.': is not a usable name"),
    "entry not an object": (_safetensors({"x": 3}), "tensor 'x': dtype, shape or data_offsets are missing"),
    "entry without dtype": (
        _safetensors({"x": {"shape": [8], "data_offsets": [0, 32]}}),
        "tensor 'x': dtype, shape or",
    ),
    "unknown dtype": (_safetensors({"x": _entry(dtype="F33")}), "tensor 'x': unknown dtype 'F33'"),
    "negative shape": (_safetensors({"x": _entry(shape=[-8])}), "tensor 'x': dtype, shape or data_offsets .* negative"),
    "true as shape": (_safetensors({"x": _entry(shape=[True])}), "tensor 'x': .* of the wrong kind"),
    "fractional shape": (_safetensors({"x": _entry(shape=[8.0])}), "tensor 'x': .* of the wrong kind"),
    "nested shape": (_safetensors({"x": _entry(shape=[[8]])}), "tensor 'x': .* of the wrong kind"),
    "negative offset": (
        _safetensors({"x": _entry(begin=-32, end=0)}),
        "tensor 'x': dtype, shape or data_off.* negative",
    ),
    "three offsets": (
        _safetensors({"x": {**_entry(), "data_offsets": [0, 32, 32]}}),
        "tensor 'x': .* of the wrong kind",
    ),
    "offset beyond 64 bits": (_safetensors({"x": _entry(end=1 << 64)}), "tensor 'x': .* of the wrong kind"),
    "reversed offsets": (_safetensors({"x": _entry(begin=32, end=0)}), r"offsets \[32, 0\] hold -32"),
    "shape too large": (
        _safetensors({"x": _entry(shape=[9])}),
        r"float32 \[9\] needs 36 bytes, offsets \[0, 32\] hold 32",
    ),
    "shape too small": (
        _safetensors({"x": _entry(shape=[7])}),
        r"float32 \[7\] needs 28 bytes, offsets \[0, 32\] hold 32",
    ),
    "half a byte": (
        _safetensors({"x": _entry(shape=[65], dtype="F4")}),
        r"float4_e2m1fn \[65\] needs 33 bytes",
    ),
    "overflowing shape": (_safetensors({"x": _entry(shape=[1 << 32, 1 << 32])}), r"absurd shape '\[4294967296, 42949"),
    "huge but empty shape": (_safetensors({"x": _entry(0, 0, [1 << 62, 0])}, 0), r"absurd shape '\[46116860184273879"),
    "too many axes": (_safetensors({"x": _entry(shape=[1] * 70, end=4)}), r"tensor 'x': absurd shape '\[1, 1, 1"),
    "past the end": (
        _safetensors({"x": _entry()}, 31),
        "tensor 'x': ends at byte 32 of the data, but the file holds 31",
    ),
    "far past the end": (
        _safetensors({"x": _entry(1 << 60, (1 << 60) + 32)}),
        "tensor 'x': ends at byte 1,152,921,504,606,847,008 of the data, but the file holds 32",
    ),
    "overlap": (_safetensors({"x": _entry(), "y": _entry(16, 48)}, 48), "tensor 'y': overlaps tensor 'x' by 16 bytes"),
    "same bytes twice": (_safetensors({"x": _entry(), "y": _entry()}), "tensor 'y': overlaps tensor 'x' by 32 bytes"),
    "hole at the start": (_safetensors({"x": _entry(8, 40)}, 40), "tensor 'x': 8 bytes before it belong to no tensor"),
    "hole between": (
        _safetensors({"x": _entry(), "y": _entry(36, 68)}, 68),
        "tensor 'y': 4 bytes before it belong to no",
    ),
    "bytes left over": (_safetensors({"x": _entry()}, 40), "8 bytes after tensor 'x' belong to no tensor"),
    "bytes of nobody": (_safetensors({}, 40), "40 bytes after the header belong to no tensor"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_a_false_safetensors_file_is_refused(tmp_path: Path, case: str) -> None:
    content, match = SAFETENSORS[case]
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CorruptFile, match=rf"model\.safetensors: .*{match}.*download it again"):
        open_checkpoint(tmp_path)


def test_a_header_larger_than_any_real_one_is_not_parsed(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with file.open("wb") as handle:
        handle.write(struct.pack("<Q", 101 << 20))
        handle.truncate(102 << 20)
    with pytest.raises(
        CorruptFile, match="has a header of 105,906,176 bytes, more than the 33,554,432 that edgelm reads"
    ):
        read_safetensors(file)


JSON_FILES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b'{"a": }', r"invalid JSON at line 1 column 7 \(Expecting value\)"),
    "not an object": (b"[1]", "holds a JSON list where an object was expected"),
    "null": (b"null", "holds a JSON NoneType where an object was expected"),
    "not UTF-8": (b'{"a": "\xe9"}', "JSON is not UTF-8 text at byte 7"),
    "empty": (b"", r"invalid JSON at line 1 column 1"),
    "nested deeply": (b'{"a":' * 4000, r"invalid JSON \(nested too deeply\)"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "only a Git LFS pointer"),
    "huge": (b" " * (MAX_JSON_BYTES + 1), "has 33,554,433 bytes, more than the 33,554,432 that such a file may have"),
}


@pytest.mark.parametrize("case", JSON_FILES)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_a_false_json_file_is_refused(tmp_path: Path, name: str, case: str) -> None:
    content, match = JSON_FILES[case]
    folder = write_hub_folder(tmp_path, {}, {"x": VALUES})
    (folder / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=rf"{name}: .*{match}.*download it again"):
        open_checkpoint(folder)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (write_hub_folder(tmp_path, {}, {"x": VALUES}) / "generation_config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"generation_config\.json: is not a regular file"):
        open_checkpoint(tmp_path)


INDICES: dict[str, tuple[Any, str]] = {
    "no map": ({}, r"has no weight_map from tensor names to files"),
    "empty map": ({"weight_map": {}}, r"has no weight_map from tensor names to files"),
    "map is a list": ({"weight_map": ["a"]}, r"has no weight_map from tensor names to files"),
    "shard missing": (
        {"weight_map": {"a": "lost.safetensors"}},
        r"names 'lost\.safetensors', which is not in the folder",
    ),
    "overlong shard": ({"weight_map": {"a": "s" * 5000}}, r"names 's{97}\.\.\.', which is not in the folder"),
    "shard outside": ({"weight_map": {"a": "../m.safetensors"}}, r"tensor 'a': '\.\./m\.safetensors' is not the name"),
    "absolute shard": ({"weight_map": {"a": "/etc/passwd"}}, r"tensor 'a': '/etc/passwd' is not the name of a file"),
    "windows shard": ({"weight_map": {"a": "..\\m"}}, r"tensor 'a': '\.\.\\\\m' is not the name of a file"),
    "drive shard": ({"weight_map": {"a": "C:m"}}, r"tensor 'a': 'C:m' is not the name of a file"),
    "parent as shard": ({"weight_map": {"a": ".."}}, r"tensor 'a': '\.\.' is not the name of a file"),
    "folder as shard": ({"weight_map": {"a": "."}}, r"tensor 'a': '\.' is not the name of a file"),
    "nameless shard": ({"weight_map": {"a": ""}}, r"tensor 'a': '' is not the name of a file"),
    "NUL in shard": ({"weight_map": {"a": "m\0"}}, r"tensor 'a': 'm\\x00' is not the name of a file"),
    "number as shard": ({"weight_map": {"a": 3}}, r"tensor 'a': '3' is not the name of a file"),
}


@pytest.mark.parametrize("case", INDICES)
def test_a_false_index_is_refused(tmp_path: Path, case: str) -> None:
    index, match = INDICES[case]
    folder = write_hub_folder(tmp_path / "m", {}, {"a": VALUES, "b": VALUES}, shards=2)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptFile, match=rf"model\.safetensors\.index\.json: .*{match}"):
        open_checkpoint(folder)


def test_a_shard_that_lacks_what_the_index_promises_is_refused(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path, {}, {"a": VALUES, "b": VALUES}, shards=2)
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].write_bytes(shards[0].read_bytes())
    with pytest.raises(
        CorruptFile, match=r"00002\.safetensors: lacks 1 tensors of model\.safetensors\.index\.json, 'b'"
    ):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards_that_the_index_leaves_out_is_refused(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path, {}, {"a": VALUES, "b": VALUES, "c": VALUES, "d": VALUES}, shards=2)
    index = {"weight_map": {name: f"model-0000{1 + (name == 'b')}-of-00002.safetensors" for name in "ab"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    second = folder / "model-00002-of-00002.safetensors"
    tensors = {"b": VALUES, "c": VALUES}
    second.write_bytes(safetensors_bytes(safetensors_header(tensors), VALUES.tobytes() * 2))
    with pytest.raises(
        CorruptFile, match=r"00002\.safetensors: tensor 'c': is in an earlier shard too and not in model"
    ):
        open_checkpoint(folder)


def _gguf(*entries: tuple[bytes, list[int], int, int], data: int = 64, **options: Any) -> bytes:
    return gguf_bytes([gguf_key("k", 1)], [gguf_entry(*entry) for entry in entries], bytes(data), **options)


def _keys(*keys: bytes, **options: Any) -> bytes:
    return gguf_bytes(list(keys), **options)


def _long_key(kind: int, count: int, item: int = 0) -> bytes:
    value = struct.pack("<IQ", item, count) if kind == 9 else struct.pack("<Q", count)
    return gguf_string("k") + struct.pack("<I", kind) + value


GGUF: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the magic number: runs past the end of the file"),
    "bad magic": (_keys(magic=b"GGML"), "does not begin with GGUF but with b'GGML'"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "only a Git LFS pointer"),
    "no version": (b"GGUF\3", "the version: runs past the end of the file"),
    "no counts": (b"GGUF\3\0\0\0\0\0", "the counts: runs past the end of the file"),
    "2^64 keys": (_keys(counts=(0, HUGE)), "says that 18,446,744,073,709,551,615 keys follow, more than the file has"),
    "2^64 tensors": (
        _keys(counts=(HUGE, 0)),
        "says that 18,446,744,073,709,551,615 tensors follow, more than the file",
    ),
    "too many keys": (
        _keys(counts=(0, 1 << 20)) + bytes(13 << 20),
        "says that 1,048,576 keys follow, and edgelm reads 131,072 at most",
    ),
    "more keys than there are": (
        _keys(gguf_key("k", 1), counts=(0, 2), alignment=1),
        "says that 2 keys follow, more than",
    ),
    "key past the end": (_keys(struct.pack("<Q", 1 << 40) + bytes(40)), "key 1 of 1: runs past the end of the file"),
    "key not UTF-8": (_keys(gguf_key(b"\xff\xfe", 1)), "key 1 of 1: a string is not UTF-8"),
    "nameless key": (_keys(gguf_key("", 1)), "key '': is not a usable name"),
    "escape sequence as key": (_keys(gguf_key("\x1b]0;", 1)), r"key '\\x1b\]0;': is not a usable name"),
    "key twice": (_keys(gguf_key("k", 1), gguf_key("k", 2)), "key 'k': appears twice"),
    "unknown value type": (_keys(gguf_string("k") + struct.pack("<IQ", 13, 0)), "key 'k': unknown value type 13"),
    "string past the end": (_keys(_long_key(8, 1 << 62)), "key 'k': runs past the end of the file"),
    "string of 2^64": (_keys(_long_key(8, HUGE)), "key 'k': runs past the end of the file"),
    "string not UTF-8": (_keys(gguf_key("k", b"\xc3\x28")), "key 'k': a string is not UTF-8"),
    "array of 2^64 bytes": (_keys(_long_key(9, HUGE)), "says that 18,446,744,073,709,551,615 values in key 'k' follow"),
    "array of 2^61 strings": (
        _keys(_long_key(9, 1 << 61, 8)),
        "says that 2,305,843,009,213,693,952 strings in key 'k'",
    ),
    "array past the items": (
        _keys(_long_key(9, 5 << 20, 0)) + bytes(5 << 20),
        "says that 5,242,880 values in key 'k' follow, and edgelm reads 4,194,304 at most",
    ),
    "array of arrays": (_keys(_long_key(9, 1, 9) + bytes(20)), "key 'k': is an array of arrays, which no reader takes"),
    "array of unknown type": (_keys(_long_key(9, 1, 77) + bytes(20)), "key 'k': is an array of unknown value type 77"),
    "alignment 0": (_keys(gguf_key("general.alignment", 0)), "general.alignment is '0', not a power of two"),
    "alignment 48": (_keys(gguf_key("general.alignment", 48)), "general.alignment is '48', not a power of two"),
    "alignment as text": (_keys(gguf_key("general.alignment", "32")), "general.alignment is '32', not a power of two"),
    "alignment true": (_keys(gguf_key("general.alignment", True)), "general.alignment is 'True', not a power of two"),
    "tensor name past the end": (
        gguf_bytes([], [struct.pack("<Q", 1 << 50) + bytes(40)]),
        "the name of tensor 1 of 1: runs past the end of the file",
    ),
    "escape sequence as tensor name": (_gguf((b"\x07", [8], 0, 0)), r"tensor '\\x07': is not a usable name"),
    "tensor twice": (_gguf((b"x", [8], 0, 0), (b"x", [8], 0, 32)), "tensor 'x': appears twice"),
    "no axes": (_gguf((b"x", [], 0, 0)), "tensor 'x': has 0 axes, and 1 to 4 are possible"),
    "five axes": (_gguf((b"x", [1] * 5, 0, 0)), "tensor 'x': has 5 axes, and 1 to 4 are possible"),
    "2^32 axes": (
        _gguf((b"x", [8], 0, 0)).replace(b"x\x01\0\0\0", b"x\xff\xff\xff\xff"),
        "tensor 'x': has 4,294,967,295 axes",
    ),
    "axis of length 0": (_gguf((b"x", [8, 0], 0, 0)), r"tensor 'x': impossible shape \[0, 8\]"),
    "axis of length 2^63": (_gguf((b"x", [1 << 63], 0, 0)), r"tensor 'x': impossible shape \[9223372036854775808\]"),
    "overflowing shape": (
        _gguf((b"x", [1 << 32] * 4, 0, 0)),
        "tensor 'x': ends at byte 1,361,129,467,683,753,853,853,",
    ),
    "unknown tensor type": (_gguf((b"x", [8], 99, 0)), "tensor 'x': unknown type 99"),
    "removed tensor type": (_gguf((b"x", [32], 4, 0)), "tensor 'x': unknown type 4 "),
    "part of a block": (_gguf((b"x", [33, 2], 2, 0)), "tensor 'x': a row of 33 is no multiple of Q4_0's block of 32"),
    "misaligned": (_gguf((b"x", [8], 0, 4)), "tensor 'x': offset 4 is no multiple of the alignment 32"),
    "past the end": (_gguf((b"x", [8], 0, 64)), "tensor 'x': ends at byte 96 of the data, but the file holds 64"),
    "offset of 2^64": (
        _gguf((b"x", [8], 0, HUGE - 31)),
        "tensor 'x': ends at byte 18,446,744,073,709,551,616 of the d",
    ),
    "cut short": (_gguf((b"x", [16], 0, 0), data=63), "tensor 'x': ends at byte 64 of the data, but the file holds 63"),
    "no data": (
        gguf_bytes([], [gguf_entry("x", [8], 0, 0)])[:57],
        "tensor 'x': ends at byte 32 of the data, but the f",
    ),
    "overlap": (_gguf((b"x", [16], 0, 0), (b"y", [8], 0, 32)), "tensor 'y': overlaps tensor 'x' by 32 bytes"),
    "same bytes twice": (_gguf((b"x", [8], 0, 0), (b"y", [8], 0, 0)), "tensor 'y': overlaps tensor 'x' by 32 bytes"),
}


@pytest.mark.parametrize("case", GGUF)
def test_a_false_gguf_file_is_refused(tmp_path: Path, case: str) -> None:
    content, match = GGUF[case]
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(CorruptFile, match=rf"a\.gguf: .*({match}).*download it again"):
        open_checkpoint(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("version", "match"),
    [
        (0, "is GGUF version 0, edgelm reads 2 and 3; convert it again"),
        (1, "is GGUF version 1, edgelm reads 2 and 3; convert it again"),
        (4, "is GGUF version 4, edgelm reads 2 and 3; convert it again"),
        (3 << 24, "is a big-endian GGUF file; convert it again as little-endian"),
    ],
)
def test_another_gguf_version_or_byte_order_is_refused(tmp_path: Path, version: int, match: str) -> None:
    (tmp_path / "a.gguf").write_bytes(_keys(version=version))
    with pytest.raises(UnsupportedConfig, match=match):
        open_gguf(tmp_path / "a.gguf")


def test_a_gguf_header_without_end_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    with file.open("wb") as handle:
        handle.write(gguf_bytes([_long_key(8, 300 << 20)], alignment=1))
        handle.truncate(400 << 20)
    with pytest.raises(CorruptFile, match="key 'k': runs past the end of the largest header that edgelm reads"):
        read_header(file)
