"""The package folder: what is refused, and with which words."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import DigestError, ManifestError, VersionError
from edgelm.manifest import MANIFEST, Manifest, sealed
from edgelm.package import Package
from edgelm.signature import CacheGeometry, LayerCache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "decoder.onnx").write_bytes(b"graph")
    manifest = Manifest(
        family="decoder",
        task="text-generation",
        architecture="llama",
        programs={"decoder": "decoder.onnx"},
        cache=CacheGeometry((LayerCache(1, 16),) * 2),
        context_length=64,
        vocab_size=10,
        parameters=100,
        device="cpu",
        precision="int4",
        recipe={},
        source={},
        files={"decoder.onnx": {"sha256": hashlib.sha256(b"graph").hexdigest(), "size": 5}},
        generation={},
        quality={},
        versions={},
    )
    (tmp_path / MANIFEST).write_text(manifest.to_json())
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(sealed(manifest | values))


def test_a_manifest_survives_the_round_trip(folder: Path) -> None:
    package = Package.open(folder)
    assert package.manifest.to_json() == (folder / MANIFEST).read_text()
    assert package.size == 5
    package.verify_digests()


def test_layers_that_are_alike_are_one_entry_of_the_cache() -> None:
    local, latent = LayerCache(1, 16, window=8), LayerCache(1, 576, latent=True)
    geometry = CacheGeometry((local, local, LayerCache(1, 16), local, latent), "float16")
    entries: list[dict[str, Any]] = [
        {"count": 2, "num_key_value_heads": 1, "head_dim": 16, "window": 8},
        {"count": 1, "num_key_value_heads": 1, "head_dim": 16},
        {"count": 1, "num_key_value_heads": 1, "head_dim": 16, "window": 8},
        {"count": 1, "num_key_value_heads": 1, "head_dim": 576, "latent": True},
    ]
    assert geometry.as_manifest() == {"dtype": "float16", "layers": entries}
    assert CacheGeometry.from_manifest(geometry.as_manifest()) == geometry


LAYER = {"count": 2, "num_key_value_heads": 1, "head_dim": 16}


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"layers": [LAYER]}, "'dtype'"),
        ({"dtype": "int3", "layers": [LAYER]}, "unknown dtype 'int3'"),
        ({"dtype": "float32"}, "'layers'"),
        ({"dtype": "float32", "layers": []}, "it has no layers"),
        ({"dtype": "float32", "layers": 3}, "not iterable"),
        ({"dtype": "float32", "layers": [{**LAYER, "count": 2**40}]}, "sizes must be whole numbers from 1"),
        ({"dtype": "float32", "layers": [{**LAYER, "head_dim": 0}]}, "sizes must be whole numbers from 1"),
        ({"dtype": "float32", "layers": [{**LAYER, "head_dim": True}]}, "sizes must be whole numbers from 1"),
        ({"dtype": "float32", "layers": [{**LAYER, "window": -1}]}, "sizes must be whole numbers from 1"),
        ({"dtype": "float32", "layers": [{**LAYER, "window": 0}]}, "sizes must be whole numbers from 1"),
        ({"dtype": "float32", "layers": [{**LAYER, "latent": 1}]}, "latent must be true or false"),
        ({"dtype": "float32", "layers": [{**LAYER, "rows": 3}]}, "unexpected keyword argument 'rows'"),
        ({"dtype": "float32", "layers": [{"count": 1}]}, "missing 2 required positional arguments"),
    ],
)
def test_a_cache_that_makes_no_sense_is_refused(folder: Path, cache: dict[str, Any], message: str) -> None:
    change(folder, cache=cache)
    with pytest.raises(ManifestError, match=f"'cache' is not usable: .*{message}"):
        Package.open(folder)


def test_a_folder_without_manifest_is_not_a_package(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match="not an edgelm package: it has no edgelm.json; make one with edgelm export"
    ):
        Package.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "12"])
def test_an_unreadable_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ManifestError, match="export the package again"):
        Package.open(folder)


def test_all_missing_fields_are_named_at_once(folder: Path) -> None:
    change(folder, device=None, files="x", context_length="64")
    with pytest.raises(ManifestError, match=r"context_length, device, files"):
        Package.open(folder)


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_family_without_its_part_is_refused(folder: Path, family: str) -> None:
    change(folder, cache=None, encoder=None, family=family)
    with pytest.raises(ManifestError, match=f"the part that tells how to run this {family} is missing"):
        Package.open(folder)


@pytest.mark.parametrize(
    "encoder", [[], {"hidden_size": 8}, {"hidden_size": 8, "pad_token_id": 0, "token_types": "yes"}]
)
def test_impossible_facts_of_an_encoder_are_refused(folder: Path, encoder: Any) -> None:
    change(folder, encoder=encoder)
    with pytest.raises(ManifestError, match="'encoder' is not usable"):
        Package.open(folder)


@pytest.mark.parametrize("cache", [{}, {"num_layers": 0, "num_key_value_heads": 1, "head_dim": 8}, {"num_layers": "x"}])
def test_an_impossible_cache_is_refused(folder: Path, cache: dict[str, Any]) -> None:
    change(folder, cache=cache)
    with pytest.raises(ManifestError, match="'cache' is not usable"):
        Package.open(folder)


def test_a_newer_format_asks_for_an_update(folder: Path) -> None:
    change(folder, format_version=2)
    with pytest.raises(VersionError, match=r"package format 2; this edgelm reads up to 1. Update it"):
        Package.open(folder)


@pytest.mark.parametrize("version", [None, "1", 0])
def test_a_format_version_that_is_no_number_is_refused(folder: Path, version: object) -> None:
    change(folder, format_version=version)
    with pytest.raises(ManifestError, match="format_version is"):
        Package.open(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "decoder.onnx").unlink()
    with pytest.raises(ManifestError, match=r"decoder.onnx is missing"):
        Package.open(folder)


def test_a_shorter_file_is_seen_at_opening(folder: Path) -> None:
    (folder / "decoder.onnx").write_bytes(b"gra")
    with pytest.raises(DigestError, match=r"decoder.onnx has 3 bytes, the manifest says 5"):
        Package.open(folder)


def test_a_changed_byte_is_seen_by_its_digest(folder: Path) -> None:
    (folder / "decoder.onnx").write_bytes(b"grapH")
    with pytest.raises(DigestError, match=r"decoder.onnx was changed since the export"):
        Package.open(folder).verify_digests()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\0b", "a/../../x", "..\\x", "C:/x", ""])
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    change(folder, files={name: {"sha256": "0", "size": 1}})
    with pytest.raises(ManifestError, match="leaves the package"):
        Package.open(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "graph"
    outside.write_bytes(b"graph")
    (folder / "decoder.onnx").unlink()
    os.symlink(outside, folder / "decoder.onnx")
    with pytest.raises(ManifestError, match="a link out of the package"):
        Package.open(folder)


def test_a_program_must_be_among_the_files(folder: Path) -> None:
    change(folder, programs={"decoder": "other.onnx"})
    with pytest.raises(ManifestError, match="names other.onnx, which is not among the package's files"):
        Package.open(folder)


def test_a_file_entry_without_digest_is_refused(folder: Path) -> None:
    change(folder, files={"decoder.onnx": {"size": 5}})
    with pytest.raises(ManifestError, match="lacks its size or sha256"):
        Package.open(folder)


def test_an_unknown_program_is_named(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"has no program 'encoder' \(it has decoder\)"):
        Package.open(folder).program("encoder")


def test_brackets_within_brackets_are_no_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ManifestError, match="cannot be read: maximum recursion depth exceeded"):
        Package.open(folder)


@pytest.mark.parametrize("program", [["decoder.onnx"], None, {}, "other.onnx"])
def test_a_program_is_the_name_of_a_file(folder: Path, program: Any) -> None:
    change(folder, programs={"decoder": program})
    with pytest.raises(ManifestError, match="program 'decoder' names .*, which is not among the package's files"):
        Package.open(folder)
