"""Exports through Optimum without Optimum: graphs as it writes them, made by hand, in the place of what it would trace."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import edgelm
from edgelm.errors import EdgeLMError, InvalidOption, UnsupportedArchitecture, UnsupportedConfig, VerificationError
from edgelm_export import optimum
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.hand_over import chosen_task, is_handed_over
from edgelm_export.inspection import inspect_checkpoint
from tests.architectures.random_checkpoints import write_checkpoint
from tests.runtime.growing_models import LONGEST, SIZE, VOCAB, logits, write_as_optimum

WRITES = ("text-generation",)
REWRITES = ("text-to-text", "hidden-states")


@dataclass(frozen=True)
class Fake:
    """What optimum.Original is, with the toy model in its place; it may say something else than the graph does."""

    family: str = "decoder"
    off_by: float = 0.0
    context_length: int | None = LONGEST
    hidden_size: int = SIZE
    vocab_size: int = VOCAB
    pad_token_id: int = 0
    notes: tuple[str, ...] = ("transformers did not read adapter.weight",)

    def load(self, folder: Path, task: str) -> Fake:
        assert folder.is_dir()
        return self

    def write(self, folder: Path) -> dict[str, Path]:
        return write_as_optimum(folder, self.family)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        ids = feeds["input_ids"][0].tolist()
        target = feeds.get("decoder_input_ids")
        said = logits(ids) if target is None else logits(target[0].tolist(), ids)
        return {"logits": said[None] + np.float32(self.off_by)}


def install(monkeypatch: pytest.MonkeyPatch, served: tuple[str, ...], fake: Fake | None = None) -> None:
    """Makes believe that Optimum is there and serves these tasks."""
    monkeypatch.setattr(optimum, "is_installed", lambda: True)
    monkeypatch.setattr(optimum, "served_tasks", lambda model_type: served)
    monkeypatch.setattr(optimum, "versions", lambda: {"optimum-onnx": "0.1.0", "torch": "2", "transformers": "4"})
    monkeypatch.setattr(optimum, "Original", fake or Fake())


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A checkpoint of a type that nobody defines."""
    config = {"model_type": "toy", "vocab_size": VOCAB, "eos_token_id": 2, "architectures": ["ToyForCausalLM"]}
    return write_checkpoint(tmp_path / "toy", config, {"weight": np.zeros((4, 4), np.float32)})


@pytest.fixture
def toy_seq2seq(toy: Path) -> Path:
    config = json.loads((toy / "config.json").read_text())
    config |= {"architectures": ["ToyForConditionalGeneration"], "decoder_start_token_id": 1}
    (toy / "config.json").write_text(json.dumps(config))
    return toy


def test_without_the_extra_the_error_names_it(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimum, "is_installed", lambda: False)
    message = (
        r"model type 'toy' has no definition .*Optimum may know it: pip install 'edgelm\[optimum\]', and export again"
    )
    with pytest.raises(UnsupportedArchitecture, match=message):
        edgelm.export(toy, toy.parent / "out")


def test_a_type_that_optimum_lacks_too_is_refused(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ())
    with pytest.raises(UnsupportedArchitecture, match=r"Optimum does not know it either; docs/adding-an"):
        edgelm.export(toy, toy.parent / "out")
    config = json.loads((toy / "config.json").read_text()) | {"auto_map": {"AutoModel": "modeling.Toy"}}
    (toy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UnsupportedArchitecture, match=r"the code that the checkpoint brings along \(auto_map\) is never run"
    ):
        edgelm.export(toy, toy.parent / "out")
    assert not (toy.parent / "out").exists()


def test_a_quantized_checkpoint_is_refused(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES)
    quantized = replace(open_checkpoint(toy), quantization="FP8")
    message = "edgelm has no definition of toy, and what Optimum exports must be float, not FP8; take the original"
    with pytest.raises(UnsupportedConfig, match=message):
        chosen_task(quantized, None, None)


def test_pickles_are_refused_before_optimum_sees_them(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES)
    (toy / "model.safetensors").rename(toy / "pytorch_model.bin")
    with pytest.raises(EdgeLMError, match="pickle"):
        edgelm.export(toy, toy.parent / "out")


def test_what_edgelm_defines_stays_with_it(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES)
    assert not is_handed_over(open_checkpoint(checkpoint))


def test_a_decoder_becomes_a_package_that_says_who_made_it(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES)
    package = edgelm.export(toy, toy.parent / "out", precision="fp32")
    package.verify_digests()
    m = package.manifest
    assert (m.exporter, m.family, m.architecture, m.context_length) == ("optimum", "decoder", "toy", LONGEST)
    assert m.versions["optimum-onnx"] == "0.1.0"
    assert "exported by Optimum 0.1.0" in m.notes[0]
    assert m.notes[1] == "transformers did not read adapter.weight"
    assert m.quality["float_against_original"] < 1e-6
    assert m.quality["steps_against_prefill"] < 1e-5
    assert set(m.source["files"]) >= {"config.json", "model.safetensors"}
    ids = [5, 6, 7, 8]
    np.testing.assert_allclose(edgelm.load(package.path).logits(ids), logits(ids), atol=1e-4)


def test_the_same_export_gives_the_same_bytes(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES)
    first, second = (edgelm.export(toy, toy.parent / name, verify=False).manifest.files for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(("precision", "closeness"), [("int8", 0.03), ("int4-plain", 0.03), ("fp16", 0.01)])
def test_its_weights_take_the_formats_of_edgelm(
    toy: Path, monkeypatch: pytest.MonkeyPatch, precision: str, closeness: float
) -> None:
    install(monkeypatch, WRITES)
    package = edgelm.export(toy, toy.parent / "out", precision=precision)
    ops = {node.op_type for node in ir.load(package.path / "decoder.onnx").graph}
    assert ("MatMulNBits" in ops, "GatherBlockQuantized" in ops) == (precision != "fp16",) * 2
    assert 0 < package.manifest.quality["prefill"]["mean_kld"] < closeness
    found, expected = edgelm.load(package.path).logits([5, 6, 7]), logits([5, 6, 7])
    assert 0 < np.abs(found - expected).max() / np.abs(expected).max() < closeness


def test_an_encoder_decoder_becomes_three_programs_that_share_their_weights(
    toy_seq2seq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, REWRITES, Fake("encoder-decoder"))
    monkeypatch.setattr("edgelm_export.seq2seq_quality.SOURCES", 8)
    package = edgelm.export(toy_seq2seq, toy_seq2seq.parent / "out", precision="fp32")
    m = package.manifest
    assert (m.exporter, m.family, list(m.programs)) == (
        "optimum", "encoder-decoder", ["decoder", "decoder_start", "encoder"],
    )  # fmt: skip
    assert m.quality["float_against_original"] < 1e-6
    assert m.files["decoder.onnx.data"]["size"] == 0
    source, target = [5, 6, 7, 8], [1, 9, 10]
    np.testing.assert_allclose(edgelm.load(package.path).logits(source, target), logits(target, source), atol=1e-4)


def test_a_trace_that_says_something_else_fails_the_export(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES, Fake(off_by=1.0))
    with pytest.raises(VerificationError, match=r"Optimum's graph of toy differs from transformers by 0\.\d+ of the"):
        edgelm.export(toy, toy.parent / "out")
    assert not (toy.parent / "out").exists()


def test_a_trace_that_holds_for_some_lengths_only_fails_the_export(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES)

    def bare(*_: object, **__: object) -> None:
        raise RuntimeError("Reshape: 22 is no multiple of 8\nat some place")

    monkeypatch.setattr("edgelm.session.Program.run_values", bare)
    message = r"Optimum's graph of toy does not run on the evaluation text.*\(Reshape: 22 is no multiple of 8\)"
    with pytest.raises(VerificationError, match=message):
        edgelm.export(toy, toy.parent / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "int3"},
            r"precision 'int3' is not known \(known: fp32, fp16, int8, int8-plain, int4, int4-plain\)",
        ),
        ({"device": "npu"}, r"device 'npu'"),
        ({"context_length": 65}, r"context length 65 is outside 1\.\.64, which the checkpoint names"),
        ({"block_size": 7}, "block size 7 is not one of"),
        ({"max_kld": 0.1}, "budgets and --calibrate need the model's own definition, and Optimum's graphs have none"),
        ({"precision": "int4", "calibrate": True}, "budgets and --calibrate need the model's own definition"),
        (
            {"kv_cache": "int8"},
            "a KV cache of int8 is not for Optimum's graphs, which grow theirs; leave --kv-cache out",
        ),
    ],
)
def test_options_that_such_graphs_do_not_have_are_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    install(monkeypatch, WRITES)
    with pytest.raises(InvalidOption, match=message):
        edgelm.export(toy, toy.parent / "out", **options)


def test_a_recipe_may_choose_formats_by_module(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES)
    recipe = toy.parent / "recipe.toml"
    recipe.write_text('precision = "int8"\n')
    assert edgelm.export(toy, toy.parent / "out", recipe=recipe, verify=False).manifest.precision == "recipe.toml"
    recipe.write_text('precision = "int8"\n[rules]\n"*" = "int4-b32-affine"\n')
    message = "recipe recipe.toml: Optimum's graphs take no int4-b32-affine; choose int8-b128 or int4-b32-asym"
    with pytest.raises(InvalidOption, match=message):
        edgelm.export(toy, toy.parent / "again", recipe=recipe)


def test_a_config_without_a_longest_text_gets_one(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES, Fake(context_length=None))
    m = edgelm.export(toy, toy.parent / "out", verify=False).manifest
    assert m.context_length == 2048
    assert "the config names no longest text, so 2048 was taken; --context-length chooses another" in m.notes
    asked = edgelm.export(toy, toy.parent / "asked", verify=False, context_length=48).manifest
    assert asked.context_length == 48


def _renamed(monkeypatch: pytest.MonkeyPatch, **names: str) -> None:
    """Optimum's decoder with values renamed."""
    write = Fake.write

    def changed(self: Fake, folder: Path) -> dict[str, Path]:
        files = write(self, folder)
        model = ir.load(files["decoder"])
        for value in (*model.graph.inputs, *model.graph.outputs):
            for old, new in names.items():
                value.name = str(value.name).replace(old, new)
        ir.save(model, files["decoder"])
        return files

    monkeypatch.setattr(Fake, "write", changed)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"past_key_values": "past_conv_states"},
            r"the cache of Optimum's graph holds more than keys and values \(past_conv_states",
        ),
        ({"logits": "scores"}, r"Optimum's graph puts out present\.0\.key, present\.0\.value, scores, and no logits"),
        (
            {"past_key_values.0.value": "past_key_values.0.other"},
            r"the cache of Optimum's graph holds more than keys and values \(past_key_values\.0\.other\)",
        ),
        ({".0.": ".3."}, r"the cache of Optimum's graph is that of layers \[3\] only"),
    ],
)
def test_graphs_that_edgelm_could_not_run_are_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch, names: dict[str, str], message: str
) -> None:
    install(monkeypatch, WRITES)
    _renamed(monkeypatch, **names)
    with pytest.raises(UnsupportedArchitecture, match=message):
        edgelm.export(toy, toy.parent / "out")


def test_inspect_says_what_optimum_would_export(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, WRITES)
    facts = inspect_checkpoint(toy)
    assert (facts["exporter"], facts["architecture"], facts["task"]) == ("optimum", "toy", "text-generation")
    assert facts["parameters"] == 16


def test_nothing_imports_a_framework_to_find_out_whether_optimum_is_there() -> None:
    source = Path(optimum.__file__).read_text(encoding="utf-8")
    assert not re.search(r"^(import|from) (torch|transformers|optimum)", source, re.MULTILINE)
