"""What edgelm inspect says of a package that no checkpoint is needed for."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from tokenizers import Tokenizer, models

from edgelm.cli import cli
from edgelm.manifest import MANIFEST, Manifest
from edgelm.signature import CacheGeometry, LayerCache


def _package(folder: Path, family: str) -> Path:
    backend = Tokenizer(models.WordLevel({"</s>": 0, "x": 1}, unk_token="x"))
    backend.add_special_tokens(["</s>", "ro_RO", "en_XX"])
    backend.save(str(folder / "tokenizer.json"))
    manifest = Manifest(
        family=family,
        task="text-to-text",
        architecture="mbart",
        programs={},
        cache=CacheGeometry((LayerCache(1, 16),) * 2),
        context_length=64,
        vocab_size=10,
        parameters=100,
        device="cpu",
        precision="int4",
        recipe={},
        source={},
        files={},
        generation={},
        quality={},
        versions={},
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def test_inspect_lists_the_languages_of_an_encoder_decoder(tmp_path: Path) -> None:
    folder = _package(tmp_path, "encoder-decoder")
    result = CliRunner().invoke(cli, ["inspect", str(folder), "--json"])
    assert json.loads(result.stdout)["languages"] == ["en_XX", "ro_RO"]
    assert "en_XX; ro_RO" in CliRunner().invoke(cli, ["inspect", str(folder)]).stdout


def test_inspect_reads_no_tokenizer_of_other_families(tmp_path: Path) -> None:
    folder = _package(tmp_path, "decoder")
    (folder / "tokenizer.json").unlink()
    result = CliRunner().invoke(cli, ["inspect", str(folder), "--json"])
    assert "languages" not in json.loads(result.stdout)
