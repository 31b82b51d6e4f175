"""Hub folders and safetensors files that are as they should be, and folders that lack something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from edgelm.errors import CheckpointError, CorruptFile, UnsupportedConfig
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.checkpoint.base import LazyTensor
from edgelm_export.checkpoint.files import listing, read_object
from edgelm_export.checkpoint.safetensors import read_safetensors
from tests.export.builders import safetensors_bytes, safetensors_header, write_hub_folder, write_safetensors

RANDOM = np.random.default_rng(5)
CONFIG = {"model_type": "llama"}
FLOATS = RANDOM.standard_normal((37, 24)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_floats_are_read_as_float32(tmp_path: Path, dtype: str) -> None:
    stored = FLOATS.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    tensor = read_safetensors(write_safetensors(tmp_path / "a.safetensors", {"x": stored}))["x"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (dtype, (37, 24), stored.nbytes)
    values = tensor.read()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, stored.astype(np.float32))


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"])
def test_integer_buffers_are_listed_and_readable(tmp_path: Path, dtype: str) -> None:
    stored = np.arange(6).reshape(1, 6).astype(dtype)
    tensor = read_safetensors(write_safetensors(tmp_path / "a.safetensors", {"position_ids": stored}))["position_ids"]
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor.read(), stored.astype(np.float32))


def test_every_bfloat16_becomes_the_float32_of_the_same_upper_bits(tmp_path: Path) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(64, 1024)
    tensor = read_safetensors(write_safetensors(tmp_path / "a.safetensors", {"x": bits.view(ml_dtypes.bfloat16)}))["x"]
    values = tensor.read()
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(values, expected)  # NaN equals NaN here
    np.testing.assert_array_equal(np.signbit(values), np.signbit(expected))


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E8M0", "float8_e8m0fnu"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
    ],
)
def test_every_8_bit_float_becomes_the_float32_of_its_value(tmp_path: Path, dtype: str, name: str) -> None:
    codes = np.tile(np.arange(256, dtype=np.uint8), 800).reshape(1600, 128)  # more than one piece
    header = {"w": {"dtype": dtype, "shape": [1600, 128], "data_offsets": [0, codes.size]}}
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, codes.tobytes()))
    tensor = read_safetensors(tmp_path / "a.safetensors")["w"]
    expected = codes.view(getattr(ml_dtypes, name)).astype(np.float32)
    assert tensor.dtype == name
    np.testing.assert_array_equal(tensor.read(), expected)
    np.testing.assert_array_equal(tensor.read(3, 8), expected[3:8])
    assert tensor.read_raw(3, 8).tobytes() == codes[3:8].tobytes()


@pytest.mark.parametrize("shape", [(300,), (41, 7), (5, 6, 7), (3, 2, 2, 5), (1, 200_001), (3, 50_000)])
def test_rows_equal_slices_of_the_whole(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = RANDOM.standard_normal(shape).astype(np.float16)
    tensor = read_safetensors(write_safetensors(tmp_path / "a.safetensors", {"pad": FLOATS, "x": stored}))["x"]
    for start, stop in [(0, None), (0, 1), (1, 3), (2, 2), (2, 1), (0, 10**9), (-2, None), (10**9, None)]:
        np.testing.assert_array_equal(tensor.read(start, stop), stored[start:stop].astype(np.float32))
        raw = tensor.read_raw(start, stop)
        assert raw.tobytes() == stored[start:stop].tobytes()
        assert raw.shape == (stored[start:stop].shape[0], stored[:1].nbytes)


def test_tensors_without_axes_and_without_values_are_read(tmp_path: Path) -> None:
    tensors = {"scalar": np.array(2.5, np.float16), "empty": np.zeros((0, 4), np.float32), "flat": np.zeros((3, 0))}
    held = read_safetensors(write_safetensors(tmp_path / "a.safetensors", tensors))
    assert held["scalar"].read() == np.float32(2.5)
    assert held["scalar"].read().shape == ()
    assert held["scalar"].read_raw().shape == (1, 2)
    assert held["empty"].read().shape == (0, 4)
    assert held["flat"].read(1).shape == (2, 0)


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes", "name"),
    [
        ("F4", [2, 4], 4, "float4_e2m1fn"),
        ("F6_E2M3", [2, 4], 6, "float6_e2m3fn"),
        ("C64", [3], 24, "complex64"),
    ],
)
def test_dtypes_without_a_conversion_are_listed_and_refused_when_read(
    tmp_path: Path, dtype: str, shape: list[int], nbytes: int, name: str
) -> None:
    header = {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, nbytes]}}
    file = tmp_path / "a.safetensors"
    file.write_bytes(safetensors_bytes(header, bytes(range(nbytes))))
    tensor = read_safetensors(file)["w"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (name, tuple(shape), nbytes)
    assert tensor.read_raw().tobytes() == bytes(range(nbytes))
    with pytest.raises(UnsupportedConfig, match=rf"a\.safetensors: tensor 'w' is stored as {name}.*take a float16"):
        tensor.read()


def test_raw_rows_that_are_not_whole_bytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(safetensors_bytes({"w": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"ab"))
    with pytest.raises(ValueError, match="a row of 1 values is no whole number of blocks of 2"):
        read_safetensors(file)["w"].read_raw()


def test_a_tensor_made_by_hand_has_rows_but_no_bytes() -> None:
    tensor = LazyTensor("w", "float32", FLOATS.shape, lambda start, stop: FLOATS[start:stop])
    np.testing.assert_array_equal(tensor.read(3, 5), FLOATS[3:5])
    with pytest.raises(ValueError, match="w has no bytes of its own"):
        tensor.read_raw()


def test_a_folder_gives_config_tensors_tokenizer_and_the_files_read(tmp_path: Path) -> None:
    extra = {
        "generation_config.json": b'{"eos_token_id": [1, 2]}',
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ x }}",
        "README.md": b"not an input",
    }
    checkpoint = open_checkpoint(write_hub_folder(tmp_path / "m", CONFIG, {"x": FLOATS}, files=extra))
    assert checkpoint.format == "hf"
    assert checkpoint.config == CONFIG
    assert checkpoint.generation_config == {"eos_token_id": [1, 2]}
    assert checkpoint.tokenizer_files() == {"tokenizer.json": b"{}", "chat_template.jinja": b"{{ x }}"}
    assert [file.name for file in checkpoint.files] == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    ]
    np.testing.assert_array_equal(checkpoint.tensors["x"].read(), FLOATS)


def test_shards_hold_the_same_tensors_as_one_file(tmp_path: Path) -> None:
    tensors = {f"layers.{i}.weight": FLOATS + i for i in range(7)}
    single = open_checkpoint(write_hub_folder(tmp_path / "single", CONFIG, tensors))
    sharded = open_checkpoint(write_hub_folder(tmp_path / "sharded", CONFIG, tensors, shards=3))
    assert set(single.tensors) == set(sharded.tensors) == set(tensors)
    assert len(sharded.files) == 5
    for name in tensors:
        np.testing.assert_array_equal(sharded.tensors[name].read(), single.tensors[name].read())


def test_weights_stored_twice_under_two_names_are_both_listed(tmp_path: Path) -> None:
    tied = {"embed_tokens.weight": FLOATS, "lm_head.weight": FLOATS}
    assert set(open_checkpoint(write_hub_folder(tmp_path, CONFIG, tied)).tensors) == set(tied)


def test_the_index_decides_which_of_two_equal_names_counts(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path, CONFIG, {"a": FLOATS, "b": FLOATS}, shards=2)
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"a": FLOATS + 1, "b": FLOATS, "unnamed": FLOATS})
    tensors = open_checkpoint(folder).tensors
    np.testing.assert_array_equal(tensors["a"].read(), FLOATS)
    assert set(tensors) == {"a", "b", "unnamed"}


def test_an_index_over_the_single_file_is_no_second_set_of_weights(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path, CONFIG, {"a": FLOATS})
    index = {"weight_map": {"a": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(open_checkpoint(folder).tensors) == {"a"}


def test_the_only_safetensors_file_may_have_any_name(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path, CONFIG, {"a": FLOATS})
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert set(open_checkpoint(folder).tensors) == {"a"}


def test_files_linked_to_elsewhere_are_read_as_a_hub_cache_needs(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path / "snapshot", CONFIG, {"a": FLOATS, "b": FLOATS}, shards=2)
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = tmp_path / "blobs" / str(number)
        file.rename(blob)
        file.symlink_to(blob)
    assert set(open_checkpoint(folder).tensors) == {"a", "b"}


def test_a_folder_without_config_says_what_was_expected_and_found(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json; expected config\.json and .*; found nothing"):
        open_checkpoint(tmp_path)
    for name in "abcdefghij":
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"found 'a', 'b', .*'h' and 2 more"):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights_says_what_was_expected_and_found(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    expected = r"no weights; expected config\.json and model\.safetensors, or model\.safetensors\.index\.json"
    with pytest.raises(CheckpointError, match=rf"{expected} and its shards; found 'config\.json'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "model.ckpt"])
@pytest.mark.parametrize("with_config", [True, False])
def test_pickled_weights_are_never_read(tmp_path: Path, name: str, with_config: bool) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    if with_config:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"pickled weights only, which are never read.*install torch.*CLASS\.from_pretrained"
    ):
        open_checkpoint(tmp_path)


def test_shards_without_their_index_are_refused(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path, CONFIG, {"a": FLOATS, "b": FLOATS}, shards=2)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"several \.safetensors files and no model\.safetensors\.index\.json"):
        open_checkpoint(folder)


def test_two_sets_of_weights_are_refused(tmp_path: Path) -> None:
    folder = write_hub_folder(tmp_path, CONFIG, {"a": FLOATS, "b": FLOATS}, shards=2)
    write_safetensors(folder / "model.safetensors", {"a": FLOATS})
    with pytest.raises(CheckpointError, match=r"holds model\.safetensors and other shards too; delete the set"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("absent", "does not exist; give a folder with config.json"),
        ("bad\0name", "does not exist"),
        ("n" * 300, "does not exist"),
        ("model.safetensors", "weights alone do not say what model they are; give their folder"),
        ("model.pt", "is a pickle, which is never read because that can run code; convert it once, where torch"),
        ("notes.txt", "is no checkpoint; give a folder with config.json"),
        ("pipe", "is not a regular file"),
    ],
)
def test_paths_that_are_no_checkpoint_are_refused(tmp_path: Path, name: str, match: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": FLOATS})
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "model.pt").write_bytes(b"\x80\x04.")
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("reader", [read_safetensors, read_object, listing])
def test_what_the_system_refuses_is_an_error_with_its_reason(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with pytest.raises(CheckpointError, match=r"absent: cannot be read \(No such file.*\); check the path"):
        reader(tmp_path / "absent")


def test_a_file_cut_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "a.safetensors", {"x": FLOATS})
    tensor = read_safetensors(file)["x"]
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CorruptFile, match="tensor 'x': the file ends early, so it changed since it was opened"):
        tensor.read()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read .*; check the path and its permissions"):
        tensor.read()


def _write_sparse(file: Path, tensors: int, rows: int, columns: int) -> Path:
    nbytes = rows * columns * 2
    header = {
        f"w{i}": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [i * nbytes, (i + 1) * nbytes]}
        for i in range(tensors)
    }
    with file.open("wb") as handle:
        handle.write(safetensors_bytes(header, b""))
        handle.truncate(handle.tell() + tensors * nbytes)
    return file


def test_opening_loads_no_weights(tmp_path: Path) -> None:
    file = _write_sparse(tmp_path / "a.safetensors", 64, 1024, 16384)  # 2 GiB, none of it on disk
    tracemalloc.start()
    tensors = read_safetensors(file)
    rows = tensors["w63"].read(1000, 1016)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (16, 16384)
    assert peak < 2 * rows.nbytes + (1 << 20)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see the resident memory")
def test_resident_memory_follows_the_rows_asked_for_not_the_file(tmp_path: Path) -> None:
    file = _write_sparse(tmp_path / "a.safetensors", 32, 512, 8192)  # 256 MiB; a tensor has 8 MiB, 16 as float32
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgelm_export.checkpoint.safetensors import read_safetensors\n"
        "def kib(key):\n"
        "    return int(Path('/proc/self/status').read_text().split(key)[1].split()[0])\n"
        "before = kib('VmRSS:')\n"
        "for tensor in read_safetensors(Path(sys.argv[1])).values():\n"
        "    tensor.read()\n"
        "sys.stdout.write(str(kib('VmHWM:') - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32 << 10  # one result while the next is made


def test_the_header_written_by_hand_is_what_the_library_writes(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    file = write_safetensors(tmp_path / "a.safetensors", {"x": FLOATS, "n": np.arange(3)}, {"format": "pt"})
    np.testing.assert_array_equal(load_file(file)["x"], FLOATS)
    assert list(safetensors_header({"x": FLOATS})) == ["x"]
