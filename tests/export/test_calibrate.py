"""Ranges of projections' inputs as the float graph shows them, and an export that uses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgelm
from edgelm.errors import ProviderError
from edgelm.package import Package
from edgelm.tokenizer import Tokenizer
from edgelm_export import float_graph
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.encoder_quality import evaluation_rows
from edgelm_export.evaluation import built_in_text
from edgelm_export.float_graph import PROVIDER, FloatGraph
from edgelm_export.model import Model, understand
from edgelm_export.quantize.calibrate import Ranges, calibrate
from tests.architectures.encoder_goldens import golden_checkpoint


def source(case: str, class_name: str, folder: Path) -> Path:
    return golden_checkpoint(case, class_name, folder / "source")


def ranges_of(checkpoint: Path, beside: Path) -> tuple[Model, Ranges]:
    model = understand(open_checkpoint(checkpoint))
    c, tokenizer = model.config, Tokenizer.from_folder(checkpoint)
    rows = evaluation_rows(built_in_text().text, tokenizer, c.context_length, c.vocab_size)
    with FloatGraph(model, beside, lambda _: None) as graph:
        return model, calibrate(graph.program("encoder"), PROVIDER, rows, model.config.pad_token_id)


def test_every_projection_of_every_layer_has_its_ranges(tmp_path: Path) -> None:
    model, ranges = ranges_of(source("bert", "BertModel", tmp_path), tmp_path)
    c = model.config
    widths = {
        "qkv_proj": c.hidden_size,
        "o_proj": c.hidden_size,
        "up_proj": c.hidden_size,
        "down_proj": c.intermediate_size,
    }
    expected = {f"layers.{i}.{name}": size for i in range(c.num_hidden_layers) for name, size in widths.items()}
    found = {name: values.shape[0] for name, values in ranges.items() if name.startswith("layers.")}
    assert found == expected
    assert all((values >= 0).all() and values.max() > 0 for values in ranges.values())


def test_layers_that_share_weights_share_the_widest_range(tmp_path: Path) -> None:
    _, ranges = ranges_of(source("albert", "AlbertModel", tmp_path), tmp_path)
    assert {name.split("#")[0] for name in ranges} == set(ranges)


def test_no_folder_is_left_behind(tmp_path: Path) -> None:
    ranges_of(source("bert", "BertModel", tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_same_export_twice_gives_identical_bytes(tmp_path: Path) -> None:
    checkpoint = source("bert", "BertForSequenceClassification", tmp_path)
    first, second = (edgelm.export(checkpoint, tmp_path / name, precision="int8") for name in "ab")
    for file in sorted(path.name for path in first.path.iterdir()):
        assert (first.path / file).read_bytes() == (second.path / file).read_bytes(), file


def test_the_quality_of_an_encoder_stands_in_its_manifest(tmp_path: Path) -> None:
    checkpoint = source("bert", "BertForSequenceClassification", tmp_path)
    package = edgelm.export(checkpoint, tmp_path / "out")
    assert package.manifest.precision == "int8"
    quality = Package.open(package.path).manifest.quality
    assert set(quality) == {"text", "outputs", "layers"}
    outputs = quality["outputs"]
    assert 0.98 < outputs["worst_cosine"] <= outputs["mean_cosine"] < 1
    assert 0.9 < outputs["label_agreement"] <= 1
    assert 0 < quality["layers"][0]["relative_error"] < 0.2


def test_too_little_memory_for_calibration_names_the_precision_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = source("bert", "BertModel", tmp_path)
    monkeypatch.setattr(float_graph, "available_memory", lambda: 1000)
    with pytest.raises(ProviderError, match="calibrated with the float graph, which needs .* --precision int8-plain"):
        edgelm.export(checkpoint, tmp_path / "out", precision="int8")
    assert not (tmp_path / "out").exists()
    package = edgelm.export(checkpoint, tmp_path / "out", precision="int8-plain")
    assert "skipped" in package.manifest.quality


@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "BertForQuestionAnswering", "BertForTokenClassification"])
def test_a_float_package_agrees_with_itself(class_name: str, tmp_path: Path) -> None:
    package = edgelm.export(source("bert", class_name, tmp_path), tmp_path / "out", precision="fp32")
    quality = package.manifest.quality["outputs"]
    assert quality["worst_cosine"] == pytest.approx(1, abs=1e-6)
    assert quality["label_agreement"] == 1


def test_sentences_and_paragraphs_are_compared() -> None:
    rows = evaluation_rows(built_in_text().text, _Words(), 64, 1000)
    assert len(rows) > 60
    assert max(len(row.ids) for row in rows) == 64


class _Words(Tokenizer):
    """One id a word."""

    def __init__(self) -> None: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [int(np.abs(hash(word))) % 1000 for word in text.split()]
