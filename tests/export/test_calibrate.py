"""Ranges of projections' inputs as the float graph shows them, and an export that uses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgelm
from edgelm.encode import Row
from edgelm.errors import InvalidOption, ProviderError
from edgelm.package import Package
from edgelm.session import Program
from edgelm.tokenizer import Tokenizer
from edgelm_export import float_graph, pipeline
from edgelm_export.calibration import inputs_of
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.encoder_quality import evaluation_rows
from edgelm_export.evaluation import built_in_text
from edgelm_export.float_graph import PROVIDER, FloatGraph
from edgelm_export.model import Model, understand
from edgelm_export.quantize import calibrate
from edgelm_export.quantize.calibrate import Inputs, Ranges, encoder_said
from tests.architectures.encoder_goldens import golden_checkpoint

LLAMA = Path(__file__).parents[1] / "golden" / "llama"


def source(case: str, class_name: str, folder: Path) -> Path:
    return golden_checkpoint(case, class_name, folder / "source")


def ranges_of(checkpoint: Path, beside: Path) -> tuple[Model, Ranges]:
    model = understand(open_checkpoint(checkpoint))
    with FloatGraph(model, beside, lambda _: None) as graph:
        return model, inputs_of(model, checkpoint, graph, built_in_text("calibration").text).ranges()


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


def test_moments_are_those_of_the_text(tmp_path: Path) -> None:
    checkpoint = source("bert", "BertModel", tmp_path)
    model = understand(open_checkpoint(checkpoint))
    rows = [Row([5, 6, 7, 8]), Row([9, 10])]
    with FloatGraph(model, tmp_path, lambda _: None) as graph:
        program, said = Program(graph.program("encoder"), PROVIDER), encoder_said(rows, 0)
        inputs = Inputs(lambda: program, said, [4, 2])
        values = np.concatenate([part[0][0] for part in said(program, ["input.layers.0.down_proj"])])
        values = values.astype(np.float64)
        moments, peaks = inputs.moments("layers.0.down_proj"), inputs.peaks("layers.0.down_proj", 16)
    assert moments is not None
    assert peaks is not None
    assert moments == pytest.approx(values.T @ values / 6, rel=1e-3, abs=1e-4 * float(np.square(values).max()))
    blocks = np.split(np.abs(values), range(16, values.shape[1], 16), axis=1)  # the last one is narrower
    assert peaks == pytest.approx([np.square(block.max(1)).mean() for block in blocks], rel=1e-5)


def test_groups_of_any_size_give_the_same_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = source("albert", "AlbertModel", tmp_path)  # whose layers share their weights
    model = understand(open_checkpoint(checkpoint))
    text = built_in_text("calibration").text[:2000]

    def moments() -> list[np.ndarray]:
        inputs = inputs_of(model, checkpoint, graph, text)
        names = sorted(inputs.ranges())
        return [found for name in names if (found := inputs.moments(name)) is not None]

    with FloatGraph(model, tmp_path, lambda _: None) as graph:
        together = moments()
        monkeypatch.setattr(calibrate, "GROUP_BYTES", 1)
        apart = moments()
    assert len(together) == len(apart) > 0
    assert all(np.array_equal(one, other) for one, other in zip(together, apart, strict=True))


def test_what_has_no_tap_has_no_moments(tmp_path: Path) -> None:
    checkpoint = source("bert", "BertModel", tmp_path)
    model = understand(open_checkpoint(checkpoint))
    with FloatGraph(model, tmp_path, lambda _: None) as graph:
        inputs = inputs_of(model, checkpoint, graph, "A short text.")
        assert inputs.moments("lm_head") is None
        assert inputs.peaks("lm_head", 32) is None


def test_sums_of_products_are_exact_in_any_order() -> None:
    values = (np.random.default_rng(0).standard_normal((500, 40)) * np.logspace(-3, 3, 40)).astype(np.float32)
    values[:, 3] = 0
    forward, backward = (calibrate._products(part) for part in (values, values[::-1]))
    assert np.array_equal(forward, backward)
    assert forward == pytest.approx(values.T.astype(np.float64) @ values, rel=1e-2, abs=1e-3 * float(forward.max()))


def test_int4_without_room_for_the_float_graph_is_rounded_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_graph, "available_memory", lambda: 1000)
    said: list[str] = []
    options = pipeline.export_options({"precision": "int4", "calibrate": True})
    package = pipeline.export(LLAMA, tmp_path / "out", options, said.append)
    assert any("rounded without calibration, for the float graph needs" in line for line in said)
    assert "calibrated" not in package.manifest.recipe


@pytest.mark.parametrize("precision", ["int8-rows", "int8-prefill"])
def test_whole_rows_of_a_decoder_are_smoothed_where_the_float_graph_has_room(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def smoothed(name: str, said: list[str]) -> set[str]:
        options = pipeline.export_options({"precision": precision, "verify": False})
        package = pipeline.export(LLAMA, tmp_path / name, options, said.append)
        graph = onnx.load(package.path / "decoder.onnx", load_external_data=False).graph
        vectors = [stored.name for stored in graph.initializer if stored.name.endswith(".smoothing")]
        return {vector.removeprefix("layers.0.").removesuffix(".smoothing") for vector in vectors if ".0." in vector}

    expected = {"qkv_proj", "o_proj", "gate_up_proj"} | ({"down_proj"} if precision == "int8-rows" else set())
    assert smoothed("room", []) == expected
    monkeypatch.setattr(float_graph, "available_memory", lambda: 1000)
    said: list[str] = []
    assert smoothed("none", said) == set()
    assert any("rounded without calibration, for the float graph needs" in line for line in said)


def test_calibration_takes_errors_from_a_decoder_and_a_text_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("One line of text, and another one.\n" * 20, encoding="utf-8")
    plain = edgelm.export(LLAMA, tmp_path / "plain", precision="int4")
    found = edgelm.export(LLAMA, tmp_path / "found", precision="int4", calibrate=True)
    options = {"calibrate": True, "calibration_text": tmp_path / "own.txt", "verify": False}
    own = edgelm.export(LLAMA, tmp_path / "own", precision="int4", **options)
    assert found.manifest.quality["prefill"]["mean_kld"] < 0.8 * plain.manifest.quality["prefill"]["mean_kld"]
    data = [(package.path / "decoder.onnx.data").read_bytes() for package in (plain, found, own)]
    assert len(set(data)) == 3
    assert [package.manifest.recipe.get("calibrated", False) for package in (plain, found, own)] == [False, True, True]


def test_a_calibration_text_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="calibration text .*absent.txt cannot be read"):
        edgelm.export(LLAMA, tmp_path / "out", calibration_text=tmp_path / "absent.txt")


def test_what_has_nothing_to_calibrate_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="--calibrate chooses the codes of blocks of integers, and fp32 has none"):
        edgelm.export(LLAMA, tmp_path / "out", precision="fp32", calibrate=True)
    (tmp_path / "own.toml").write_text('precision = "int4"\n', encoding="utf-8")
    with pytest.raises(InvalidOption, match="--calibrate is for presets; write 'calibrated = true' into .*own.toml"):
        edgelm.export(LLAMA, tmp_path / "out", recipe=tmp_path / "own.toml", calibrate=True)
