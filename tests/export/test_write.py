"""Writing a package: complete or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from edgelm.errors import PackageError
from edgelm.manifest import MANIFEST
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.write import DataFile, check_space, digests, package_folder, write_texts
from tests.export.builders import write_hub_folder
from tests.export.slow_files import sentencepiece, settings


def test_a_finished_folder_takes_its_name_and_leaves_no_trace(tmp_path: Path) -> None:
    with package_folder(tmp_path / "out", force=False) as folder:
        (folder / "x").write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "x").read_text() == "1"


def test_any_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), package_folder(tmp_path / "deep" / "out", force=False) as folder:
        (folder / "x").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("x")) == []
    assert not (tmp_path / "deep" / "out").exists()


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(PackageError, match="the disk of .* is full; nothing was left behind"),
        package_folder(tmp_path / "out", force=False),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_package_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / MANIFEST).write_text("{}")
    with (
        pytest.raises(PackageError, match="holds a package already; --force replaces it"),
        package_folder(target, force=False),
    ):
        pass
    with package_folder(target, force=True) as folder:
        (folder / "new").write_text("1")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_replacement_keeps_the_old_package(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match="halfway"), package_folder(target, force=True):
        raise ValueError("halfway")
    assert (target / MANIFEST).read_text() == "{}"


def test_a_folder_that_is_no_package_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(PackageError, match="not an edgelm package; it will not be replaced"),
        package_folder(tmp_path / "out", force=True),
    ):
        pass
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_an_empty_folder_is_welcome(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with package_folder(tmp_path / "out", force=False) as folder:
        (folder / "x").write_text("1")
    assert (tmp_path / "out" / "x").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PackageError, match=r"cannot be written: .*; choose another folder with -o"),
        package_folder(tmp_path / "file" / "out", force=False),
    ):
        pass


def test_too_little_space_is_known_before_the_first_byte(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(PackageError, match=r"the export needs .* MB and the disk has"):
        check_space(tmp_path / "out", 10**18)


def test_tensors_start_on_cache_lines(tmp_path: Path) -> None:
    data = DataFile(tmp_path / "data")
    assert data.add(np.dtype(np.uint8), (3,), lambda: [np.arange(3, dtype=np.uint8)]) == ("data", 0, 3)
    assert data.add(np.dtype(np.float32), (2, 2), lambda: [np.ones((1, 2), np.float32)] * 2) == ("data", 64, 16)
    data.close()
    assert np.fromfile(tmp_path / "data", np.float32, offset=64).tolist() == [1, 1, 1, 1]


def test_a_store_refuses_what_was_not_promised(tmp_path: Path) -> None:
    data = DataFile(tmp_path / "data")
    with pytest.raises(ValueError, match="3 bytes were produced for a tensor of 4"):
        data.add(np.dtype(np.uint8), (4,), lambda: [np.zeros(3, np.uint8)])
    with pytest.raises(TypeError, match="a piece is float64, the tensor float32"):
        data.add(np.dtype(np.float32), (1,), lambda: [np.zeros(1)])
    data.close()


def test_both_tokenizers_of_marian_are_written_and_recorded(tmp_path: Path) -> None:
    model = sentencepiece("source.spm", "<unk>", "<s>", "</s>")
    files = {**model, "target.spm": model["source.spm"], "vocab.json": b'{"</s>": 0, "<unk>": 1}'}
    files |= settings(tokenizer_class="MarianTokenizer")
    (tmp_path / "checkpoint").mkdir()
    folder = write_hub_folder(
        tmp_path / "checkpoint", {"model_type": "marian"}, {"w": np.zeros(3, np.float32)}, files=files
    )
    package = tmp_path / "package"
    package.mkdir()
    write_texts(open_checkpoint(folder), package)
    assert {"tokenizer.json", "tokenizer_target.json", "config.json"} <= digests(package).keys()
