"""States go into a file and come out the same; files of other packages, or with a byte changed, do not."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.errors import ContextOverflow, StateError
from edgelm.text_generation import DecoderModel
from tests.runtime.growing_models import decoder_package
from tests.runtime.kinds_of_cache import KINDS_OF_CACHE, package_with_cache

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 8, "eos_token_id": ()}
IDS = np.random.default_rng(0).integers(3, 128, 60).tolist()
MAGIC = b"edgelm state 1\n"


@pytest.fixture
def state(package: Path, tmp_path: Path) -> Path:
    """What is kept of two requests."""
    model = edgelm.load(package, threads=1)
    model.generate([IDS[:30], IDS[5:12]], **GREEDY)
    model.save_state(tmp_path / "chat.state")
    return tmp_path / "chat.state"


def refused(package: Path, file: Path, match: str) -> None:
    model = edgelm.load(package, threads=1)
    with pytest.raises(StateError, match=match):
        model.load_state(file)
    assert model.generate(IDS[:30], **GREEDY).metrics.cached_tokens == 0


def rewritten(file: Path, header: Any, rest: bytes = b"", magic: bytes = MAGIC) -> Path:
    """The same file with another header and what stands behind it, and the digest that belongs to them."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = magic + len(text).to_bytes(8, "little") + text + rest
    file.write_bytes(whole + hashlib.sha256(whole).digest())
    return file


@pytest.mark.parametrize("case", ["tiny", *KINDS_OF_CACHE])
def test_another_process_goes_on_where_the_first_one_stopped(case: str, package: Path, tmp_path: Path) -> None:
    if case != "tiny":
        package = package_with_cache(case, tmp_path / "package")
    first, second = edgelm.load(package, threads=1), edgelm.load(package, threads=1)
    ids = [*IDS[:50], *first.generate(IDS[:50], **GREEDY).token_ids, 5]
    first.save_state(tmp_path / "chat.state")
    second.load_state(str(tmp_path / "chat.state"))
    found = second.generate(ids, **{**GREEDY, "max_new_tokens": 4})
    assert found.metrics.cached_tokens == 57
    assert found.token_ids == first.generate(ids, **{**GREEDY, "max_new_tokens": 4}).token_ids
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat.state", "package"][: 1 + (case != "tiny")]


def test_a_copy_of_the_package_reads_the_state(package: Path, state: Path, tmp_path: Path) -> None:
    model = edgelm.load(shutil.copytree(package, tmp_path / "copy"), threads=1)
    model.load_state(state)
    assert model.generate(IDS[:30], **GREEDY).metrics.cached_tokens == 29


def test_a_state_of_another_package_is_refused(state: Path, tmp_path: Path) -> None:
    refused(decoder_package(tmp_path / "package"), state, "was saved with another package; load that one")


@pytest.mark.parametrize("where", [0.3, 0.9, 0.99999])
def test_a_changed_byte_is_found(package: Path, state: Path, where: float) -> None:
    data = bytearray(state.read_bytes())
    data[int(len(data) * where)] ^= 1
    state.write_bytes(data)
    refused(package, state, "is damaged: its digest does not match; save the state again")


@pytest.mark.parametrize("length", [15, 20, 100, -1])
def test_a_file_that_is_cut_off_is_found(package: Path, state: Path, length: int) -> None:
    state.write_bytes(state.read_bytes()[:length])
    refused(package, state, "is damaged")


def test_another_kind_of_file_is_refused(package: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    refused(package, tmp_path / "notes", "is no state that this edgelm wrote; save one with save_state")
    refused(package, tmp_path / "nothing", "nothing cannot be read")


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([[]], "a row is empty"),
        ([[5, 128]], "ids that the vocabulary does not"),
        ([[5, -1]], "ids that the vocabulary does not"),
        ([[True]], "ids that the vocabulary does not"),
        ([5], "is damaged"),
        ([[5, 6]], "it is cut off"),
        ([], "it is longer than its rows"),
    ],
)
def test_headers_that_lie_are_found(package: Path, state: Path, rows: Any, match: str) -> None:
    digest = edgelm.load(package, threads=1).package.digest
    entries = [{"adapter": None, "ids": ids} for ids in rows]
    refused(package, rewritten(state, {"package": digest, "rows": entries}, b"\0" * 9), match)


@pytest.mark.parametrize("header", [b"", b"[1]", b"{}", b"\xff", b'"x"'])
def test_headers_that_are_none_are_found(package: Path, state: Path, header: bytes) -> None:
    refused(package, rewritten(state, header), "is damaged")


def test_a_header_of_any_length_allocates_nothing(package: Path, state: Path) -> None:
    whole = MAGIC + (2**62).to_bytes(8, "little")
    state.write_bytes(whole + hashlib.sha256(whole).digest())
    refused(package, state, "it is cut off")


def test_a_row_longer_than_the_model_was_loaded_for_is_refused(package: Path, state: Path) -> None:
    with pytest.raises(ContextOverflow, match=r"[0-9]+ positions are needed and this model was loaded for 20"):
        edgelm.load(package, threads=1, max_length=20).load_state(state)


def test_a_folder_that_is_not_there_is_named_and_nothing_is_left(model: DecoderModel, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="state cannot be written"):
        model.save_state(tmp_path / "missing" / "state")
    (tmp_path / "taken").mkdir()
    with pytest.raises(StateError, match="taken cannot be written"):
        model.save_state(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
