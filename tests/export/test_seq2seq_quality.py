"""The quality card of an encoder-decoder, and what it rests on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgelm
from edgelm.errors import MissingWeights
from edgelm.package import Package
from edgelm.tokenizer import Tokenizer
from edgelm_export import seq2seq_quality
from edgelm_export.evaluation import built_in_text
from edgelm_export.seq2seq_quality import SOURCES, clauses, edit_distance
from tests.architectures.seq2seq_checkpoints import tiny_seq2seq


@pytest.fixture
def few_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq2seq_quality, "SOURCES", 16)


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("a", "a", 0)]
)
def test_edits_are_counted(a: str, b: str, edits: int) -> None:
    assert edit_distance(a, b) == edits == edit_distance(b, a)


@given(st.text("abc", max_size=8), st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edits_are_a_distance(a: str, b: str, c: str) -> None:
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert (edit_distance(a, b) == 0) == (a == b)


def test_two_hundred_pieces_of_the_text_are_rewritten(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_seq2seq(tmp_path))
    sources = clauses(built_in_text().text, tokenizer, 64, 160)
    assert len(sources) == SOURCES
    assert max(map(len, sources)) <= 64


@pytest.mark.usefixtures("few_sources")
def test_the_manifest_holds_divergence_agreement_and_character_errors(tmp_path: Path) -> None:
    package = edgelm.export(tiny_seq2seq(tmp_path / "source"), tmp_path / "out")
    assert package.manifest.precision == "int8"
    quality = Package.open(package.path).manifest.quality
    assert set(quality) == {"text", "decode", "outputs", "steps_against_prefill", "layers"}
    assert quality["outputs"]["texts"] == 16
    assert 0 < quality["decode"]["mean_kld"] < 0.1
    assert quality["decode"]["top1_agreement"] > 0.8


@pytest.mark.usefixtures("few_sources")
def test_a_float_package_writes_what_the_checkpoint_does(tmp_path: Path) -> None:
    quality = edgelm.export(tiny_seq2seq(tmp_path / "source"), tmp_path / "out", precision="fp32").manifest.quality
    assert quality["outputs"]["character_error_rate"] == 0
    assert quality["decode"]["top1_agreement"] == 1
    assert quality["steps_against_prefill"] < 1e-4


def test_a_checkpoint_of_which_a_half_is_missing_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = tiny_seq2seq(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    save_file({name: x for name, x in tensors.items() if ".decoder." not in name}, source / "model.safetensors")
    with pytest.raises(
        MissingWeights, match="decoder.layers.0.cross.k_proj.weight <- model.decoder.layers.0.encoder_attn"
    ):
        edgelm.export(source, tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists()


def test_the_token_table_is_stored_once(tmp_path: Path) -> None:
    package = edgelm.export(tiny_seq2seq(tmp_path / "source"), tmp_path / "out", precision="fp32", verify=False)
    assert "encoder.onnx.data" in (package.path / "decoder.onnx").read_bytes().decode("latin-1")


@pytest.mark.usefixtures("few_sources")
def test_the_same_export_twice_gives_identical_bytes(tmp_path: Path) -> None:
    source = tiny_seq2seq(tmp_path / "source")
    first, second = (edgelm.export(source, tmp_path / name, precision="int4") for name in "ab")
    for file in sorted(path.name for path in first.path.iterdir()):
        assert (first.path / file).read_bytes() == (second.path / file).read_bytes(), file
