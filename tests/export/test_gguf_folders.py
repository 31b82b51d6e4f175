"""GGUF files split into parts, folders that hold GGUF files, and what is refused among both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import CheckpointError, CorruptFile
from edgelm_export.checkpoint import open_checkpoint
from tests.export.builders import write_gguf

FLOATS = np.arange(36, dtype=np.float32).reshape(9, 4)


def _write_split(folder: Path, count: int = 3, tensors_count: int | None = None) -> list[Path]:
    files: list[Path] = []
    for number in range(count):
        split = {"split.no": number, "split.count": count, "split.tensors.count": tensors_count or count}
        first = {"general.architecture": "llama"} if number == 0 else {}
        path = folder / f"m-{number + 1:05}-of-{count:05}.gguf"
        files.append(write_gguf(path, first | split, {f"x{number}": FLOATS + number}))
    return files


@pytest.mark.parametrize("given", [0, 1, 2])
def test_a_split_file_opens_from_any_part(tmp_path: Path, given: int) -> None:
    files = _write_split(tmp_path)
    checkpoint = open_checkpoint(files[given])
    assert checkpoint.files == tuple(files)
    assert checkpoint.config["general.architecture"] == "llama"
    for number in range(3):
        np.testing.assert_array_equal(checkpoint.tensors[f"x{number}"].read(), FLOATS + number)


def test_a_folder_of_the_parts_of_one_split_file_opens(tmp_path: Path) -> None:
    assert open_checkpoint(_write_split(tmp_path)[0].parent).files[0].name == "m-00001-of-00003.gguf"


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    files = _write_split(tmp_path)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 parts are missing; download m-00002-of-00003\.gguf beside it"):
        open_checkpoint(files[0])


def test_a_renamed_part_is_refused(tmp_path: Path) -> None:
    file = _write_split(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match=r"is a part of a split file, so restore its name: NAME-00001-of-00003"):
        open_checkpoint(file)


def test_swapped_parts_are_refused(tmp_path: Path) -> None:
    files = _write_split(tmp_path)
    files[2].write_bytes(files[1].read_bytes())
    with pytest.raises(CorruptFile, match="is not part 3 of 3, though its name says so"):
        open_checkpoint(files[0])


def test_parts_with_too_few_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="says that its parts hold 5 tensors, but they hold 3"):
        open_checkpoint(_write_split(tmp_path, tensors_count=5)[0])


def test_parts_with_the_same_tensor_are_refused(tmp_path: Path) -> None:
    files = _write_split(tmp_path)
    write_gguf(files[2], {"split.no": 2, "split.count": 3}, {"x0": FLOATS})
    with pytest.raises(CorruptFile, match="tensor 'x0' is in an earlier part too"):
        open_checkpoint(files[0])


@pytest.mark.parametrize("count", [2.0, "3", [3], -3, 1 << 40])
def test_an_impossible_number_of_parts_is_refused(tmp_path: Path, count: Any) -> None:
    file = write_gguf(tmp_path / "m-00001-of-00003.gguf", {"split.count": count}, {"x": FLOATS})
    with pytest.raises(CheckpointError, match="is a part of a split file, so restore its name"):
        open_checkpoint(file)


def test_a_folder_with_one_gguf_file_opens_it(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", {"general.architecture": "llama"}, {"x": FLOATS})
    checkpoint = open_checkpoint(str(tmp_path))
    assert (checkpoint.format, checkpoint.files) == ("gguf", (file,))


def test_a_gguf_file_of_another_name_is_recognised(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "sha256-0123", {}, {"x": FLOATS})
    assert open_checkpoint(file).format == "gguf"


def test_a_folder_with_several_gguf_files_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / name, {}, {"x": FLOATS})
    with pytest.raises(CheckpointError, match=r"holds 2 \.gguf files; give one of them: 'a\.gguf', 'b\.gguf'"):
        open_checkpoint(tmp_path)


def test_a_folder_with_config_and_gguf_says_what_it_found(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", {}, {"x": FLOATS})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no weights; .* found 'a\.gguf', 'config\.json'"):
        open_checkpoint(tmp_path)
