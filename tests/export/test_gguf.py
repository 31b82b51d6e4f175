"""GGUF files that are as they should be: every tensor type, metadata, split files; and folders that hold them."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from edgelm.errors import CorruptFile, UnsupportedConfig
from edgelm_export.checkpoint.gguf import open_gguf
from tests.export.builders import gguf_bytes, gguf_key, gguf_tensors, write_gguf

RANDOM = np.random.default_rng(7)
FLOATS = RANDOM.standard_normal((9, 512)).astype(np.float32)
PLAIN = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8"}
BLOCK_TYPES = [kind.name for kind in GGMLQuantizationType if kind.name not in PLAIN]


def _stored(kind: str) -> tuple[NDArray[np.uint8], bool]:
    """Nine rows of two or more blocks, quantized if the package can, else random; and whether it can dequantize."""
    type_id = GGMLQuantizationType[kind]
    unit_values, unit_bytes = GGML_QUANT_SIZES[type_id]
    try:
        raw = quantize(FLOATS, type_id)
    except NotImplementedError:
        raw = RANDOM.integers(0, 256, (9, 512 // unit_values * unit_bytes), dtype=np.uint8)
    try:
        with np.errstate(all="ignore"):
            dequantize(raw, type_id)
    except NotImplementedError:
        return raw, False
    return raw, True


CAN = [kind for kind in BLOCK_TYPES if _stored(kind)[1]]
CANNOT = [kind for kind in BLOCK_TYPES if kind not in CAN]


def test_the_types_of_common_files_are_among_those_tested() -> None:
    assert {"Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ2_XXS"} <= set(CAN)


@pytest.mark.parametrize("kind", CAN)
def test_every_block_type_reads_as_the_package_dequantizes_it(tmp_path: Path, kind: str) -> None:
    raw, _ = _stored(kind)
    with np.errstate(all="ignore"):
        whole = dequantize(raw, GGMLQuantizationType[kind])
    tensors = open_gguf(write_gguf(tmp_path / "a.gguf", {}, {"pad": FLOATS[:1, :3], "x": (kind, raw)})).tensors
    tensor = tensors["x"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (kind, (9, 512), raw.nbytes)
    np.testing.assert_array_equal(tensor.read(), whole)
    for start, stop in [(0, 1), (3, 8), (8, None), (4, 4), (7, 100)]:
        np.testing.assert_array_equal(tensor.read(start, stop), whole[start:stop])
        np.testing.assert_array_equal(tensor.read_raw(start, stop), raw[start:stop])


@pytest.mark.parametrize("kind", CANNOT)
def test_block_types_the_package_cannot_dequantize_are_listed_and_refused_when_read(tmp_path: Path, kind: str) -> None:
    raw, _ = _stored(kind)
    tensor = open_gguf(write_gguf(tmp_path / "a.gguf", {}, {"x": (kind, raw)})).tensors["x"]
    assert tensor.dtype == kind
    np.testing.assert_array_equal(tensor.read_raw(), raw)
    with pytest.raises(UnsupportedConfig, match=rf"a\.gguf: tensor 'x' is stored as {kind}, which gguf cannot dequant"):
        tensor.read()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"])
def test_plain_types_are_read_as_float32(tmp_path: Path, dtype: str) -> None:
    stored = np.arange(60).reshape(3, 4, 5).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    tensor = open_gguf(write_gguf(tmp_path / "a.gguf", {}, {"x": stored})).tensors["x"]
    assert (tensor.dtype, tensor.shape) == (dtype, (3, 4, 5))
    np.testing.assert_array_equal(tensor.read(), stored.astype(np.float32))
    np.testing.assert_array_equal(tensor.read(1, 2), stored[1:2].astype(np.float32))


def test_tensors_larger_than_one_piece_are_read_whole(tmp_path: Path) -> None:
    values = RANDOM.standard_normal((700, 1024)).astype(np.float32)
    raw = quantize(values, GGMLQuantizationType.Q8_0)
    tensor = open_gguf(write_gguf(tmp_path / "a.gguf", {}, {"x": ("Q8_0", values)})).tensors["x"]
    whole = dequantize(raw, GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(tensor.read(), whole)
    np.testing.assert_array_equal(tensor.read(350, 699), whole[350:699])


def test_expert_tensors_are_sliced_by_expert(tmp_path: Path) -> None:
    values = RANDOM.standard_normal((4, 6, 64)).astype(np.float32)
    raw = quantize(values, GGMLQuantizationType.Q4_1)
    tensor = open_gguf(write_gguf(tmp_path / "a.gguf", {}, {"x": ("Q4_1", values)})).tensors["x"]
    assert tensor.shape == (4, 6, 64)
    np.testing.assert_array_equal(tensor.read(2, 3), dequantize(raw, GGMLQuantizationType.Q4_1)[2:3])
    assert tensor.read_raw(2, 3).tobytes() == raw[2:3].tobytes()


def test_a_quantized_tensor_of_one_axis_is_read_by_element(tmp_path: Path) -> None:
    values = RANDOM.standard_normal(96).astype(np.float32)
    whole = dequantize(quantize(values, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    tensor = open_gguf(write_gguf(tmp_path / "a.gguf", {}, {"x": ("Q8_0", values)})).tensors["x"]
    np.testing.assert_array_equal(tensor.read(), whole)
    np.testing.assert_array_equal(tensor.read(30, 70), whole[30:70])
    with pytest.raises(ValueError, match="a row of 1 values is no whole number of blocks of 32"):
        tensor.read_raw(30, 70)


@pytest.mark.usefixtures("tokenizer_module")
def test_a_file_of_the_packages_own_writer_is_read(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("x", FLOATS)
    writer.add_tensor("q", quantize(FLOATS, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_gguf(tmp_path / "a.gguf")
    assert checkpoint.config["general.architecture"] == "llama"
    assert checkpoint.config["llama.block_count"] == 2
    np.testing.assert_array_equal(checkpoint.tensors["x"].read(), FLOATS)
    assert checkpoint.tensors["q"].shape == FLOATS.shape


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_comes_as_plain_python_values(tmp_path: Path, version: int) -> None:
    keys = [
        gguf_key(f"k{kind}", value, kind)
        for kind, value in {0: 200, 1: -5, 2: 60000, 3: -300, 4: 1 << 31, 5: -(1 << 31), 6: 0.5, 7: True}.items()
    ]
    keys += [gguf_key("k10", 1 << 63, 10), gguf_key("k11", -(1 << 40), 11), gguf_key("k12", 0.1, 12)]
    keys += [gguf_key("text", "naïve"), gguf_key("names", ["a", "", "ß"]), gguf_key("none", [])]
    keys += [gguf_key("numbers", [1, -2]), gguf_key("floats", [0.5, 2.0]), gguf_key("flags", [True, False])]
    (tmp_path / "a.gguf").write_bytes(gguf_bytes(keys, version=version))
    config = open_gguf(tmp_path / "a.gguf").config
    assert config == {
        "k0": 200,
        "k1": -5,
        "k2": 60000,
        "k3": -300,
        "k4": 1 << 31,
        "k5": -(1 << 31),
        "k6": 0.5,
        "k7": True,
        "k10": 1 << 63,
        "k11": -(1 << 40),
        "k12": 0.1,
        "text": "naïve",
        "names": ["a", "", "ß"],
        "none": [],
        "numbers": [1, -2],
        "floats": [0.5, 2.0],
        "flags": [True, False],
    }
    plain = (int, float, bool, str)
    assert all(type(value) in plain or all(type(item) in plain for item in value) for value in config.values())


@pytest.mark.parametrize("alignment", [1, 32, 256])
def test_the_alignment_of_the_file_counts(tmp_path: Path, alignment: int) -> None:
    tensors = {"a": np.arange(5, dtype=np.float32), "b": FLOATS}
    checkpoint = open_gguf(write_gguf(tmp_path / "a.gguf", {"general.alignment": alignment}, tensors))
    for name, values in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), values)


@pytest.fixture
def tokenizer_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the tokenizer's own module, which has tests of its own."""

    def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, bytes]:
        return {"tokenizer.json": " ".join(metadata["tokenizer.ggml.tokens"]).encode()}

    module = types.ModuleType("edgelm_export.checkpoint.gguf_tokenizer")
    module.__dict__.update(end_token_ids=lambda metadata: [2, 5], tokenizer_files=tokenizer_files)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("tokenizer_module")
def test_the_vocabulary_stays_in_the_file_until_the_tokenizer_is_asked_for(tmp_path: Path) -> None:
    tokens = [f"t{i}" for i in range(100)]
    metadata = {
        "tokenizer.ggml.tokens.length": 7,  # a lie that must not win
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.5] * 64,
        "general.languages": ["en"] * 65,
    }
    checkpoint = open_gguf(write_gguf(tmp_path / "a.gguf", metadata, {}))
    assert checkpoint.tokenizer_files() == {"tokenizer.json": " ".join(tokens).encode()}
    assert checkpoint.generation_config == {"eos_token_id": [2, 5]}
    assert checkpoint.config == {
        "tokenizer.ggml.tokens.length": 100,
        "tokenizer.ggml.scores": [0.5] * 64,
        "tokenizer.ggml.scores.length": 64,
        "general.languages": ["en"] * 65,
    }


def test_a_false_vocabulary_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.eos_token_id": 2}
    with pytest.raises(CorruptFile, match=r"a\.gguf: tokenizer\.ggml\.eos_token_id is 2, outside 0\.\.1"):
        open_gguf(write_gguf(tmp_path / "a.gguf", metadata, {}))
    metadata = {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.model": "own"}
    checkpoint = open_gguf(write_gguf(tmp_path / "a.gguf", metadata, {}))
    with pytest.raises(UnsupportedConfig, match=r"a\.gguf: tokenizer\.ggml\.model 'own' is an unknown kind"):
        checkpoint.tokenizer_files()


def test_a_file_without_vocabulary_has_no_generation_settings(tmp_path: Path) -> None:
    assert open_gguf(write_gguf(tmp_path / "a.gguf", {}, {"x": FLOATS})).generation_config == {}


def test_a_large_vocabulary_is_read_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [f"token{i}" for i in range(50_000)]
    entries, data = gguf_tensors({"x": FLOATS})
    (tmp_path / "a.gguf").write_bytes(gguf_bytes([gguf_key("tokens", tokens)], entries, data))
    reads: list[int] = []
    original = io.FileIO.readinto

    class Counting(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            reads.append(len(buffer))
            return original(self, buffer)

    monkeypatch.setattr(io, "FileIO", Counting)
    assert open_gguf(tmp_path / "a.gguf").config["tokens"] == tokens
    assert 1 <= len(reads) <= 3
