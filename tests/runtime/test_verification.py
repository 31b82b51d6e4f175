"""edgelm verify without an exporter in between: what holds of a sound package, and how each kind of damage is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgelm
from edgelm import home, known_answers
from edgelm.errors import EdgeLMError, PackageError
from edgelm.known_answers import NOTHING
from edgelm.manifest import MANIFEST, sealed
from edgelm.package import Package, sha256
from edgelm.program_ports import differences
from edgelm.providers import PROVIDERS
from edgelm.recorded_run import NEAR_TIE, Repeated, record, repeat
from edgelm.session import Program
from edgelm.verification import Check, compared, verify_package
from tests.architectures import encoder_goldens
from tests.architectures.seq2seq_goldens import golden_checkpoint
from tests.runtime.growing_models import decoder_package, seq2seq_package

CPU = PROVIDERS["cpu"]

Golden = Callable[[Path], Path]
GOLDENS: dict[str, tuple[Golden, str]] = {
    "llama": (lambda folder: golden_checkpoint("llama", folder), "int4"),
    "windows": (lambda folder: golden_checkpoint("gemma3_text", folder), "int4"),
    "longrope": (lambda folder: golden_checkpoint("phi3-longrope", folder), "fp32"),
    "latent": (lambda folder: golden_checkpoint("deepseek_v3", folder), "int4"),
    "sinks": (lambda folder: golden_checkpoint("gpt_oss", folder), "int4"),
    "labels": (
        lambda folder: encoder_goldens.golden_checkpoint("bert", "BertForSequenceClassification", folder),
        "int8",
    ),
    "masks": (lambda folder: encoder_goldens.golden_checkpoint("bert", "BertForMaskedLM", folder), "int8-plain"),
    "spans": (lambda folder: encoder_goldens.golden_checkpoint("bert", "BertForQuestionAnswering", folder), "int4"),
    "local": (lambda folder: encoder_goldens.golden_checkpoint("modernbert", "ModernBertModel", folder), "int8"),
    "translation": (lambda folder: golden_checkpoint("t5", folder), "int8"),
}


@pytest.fixture(scope="module", params=GOLDENS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of each kind, measured."""
    checkpoint, precision = GOLDENS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "short.txt").write_text("wa zu ki, wo. " * 20)
    options = {"precision": precision, "eval_text": folder / "short.txt"}
    return edgelm.export(checkpoint(folder / "source"), folder / "out", **options).path


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measured package; tests must not change it."""
    return edgelm.export(checkpoint, tmp_path_factory.mktemp("verified") / "out", precision="int4").path


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package, tmp_path / "copy"))


def failures(checks: Iterator[Check]) -> list[Check]:
    return [check for check in checks if not check.ok]


def test_a_sound_package_passes_every_check(sound: Path) -> None:
    checks = list(verify_package(sound))
    assert [check for check in checks if not check.ok] == []
    names = [check.name for check in checks]
    assert names[:2] == ["manifest", "digests"]
    assert {f"signature of {name}" for name in Package.open(sound).manifest.programs} <= set(names)
    assert names[-1] == "recorded run"
    assert re.fullmatch(r"(\d+) of \1 outputs as recorded", checks[-1].detail)


def test_every_fused_operator_of_a_package_has_a_known_answer(sound: Path) -> None:
    used = {
        f"{node.domain} {node.op_type}"
        for file in Package.open(sound).manifest.programs.values()
        for node in onnx.load(sound / file, load_external_data=False).graph.node
        if node.domain
    }
    assert used <= {probe["operator"] for probe in Package.open(sound).manifest.probes.values()}


def flipped(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bytes(data))


def bits(file: Path, count: int, rng: np.random.Generator) -> list[int]:
    size = 8 * file.stat().st_size
    return [0, size - 1, *rng.integers(0, size, count).tolist()]


def test_one_flipped_bit_in_any_file_is_refused(copy: Path) -> None:
    rng = np.random.default_rng(0)
    names = [*Package.open(copy).manifest.files, MANIFEST]
    assert {file.name for file in copy.iterdir()} == set(names)
    for name in names:
        file, content = copy / name, (copy / name).read_bytes()
        for bit in bits(file, 200 if name == MANIFEST else 6, rng):
            flipped(file, bit)
            with pytest.raises(PackageError):
                Package.open(copy).verify_digests()
            file.write_bytes(content)


def test_one_flipped_bit_is_refused_by_load_and_by_verify(copy: Path) -> None:
    rng = np.random.default_rng(1)
    for name in [*Package.open(copy).manifest.files, MANIFEST]:
        file, content = copy / name, (copy / name).read_bytes()
        flipped(file, bits(file, 1, rng)[2])
        with pytest.raises(EdgeLMError):
            edgelm.load(copy)
        [failed] = failures(verify_package(copy))
        assert failed.name in ("manifest", "digests")
        file.write_bytes(content)
    assert failures(verify_package(copy)) == []


def test_every_bit_of_the_manifest_counts(tmp_path: Path, package: Path) -> None:
    """Its own digest too: the key, the quotes, the spaces around it."""
    text = (package / MANIFEST).read_bytes()
    start = text.index(b'\n "sha256"')
    (tmp_path / "copy").mkdir()
    for bit in range(8 * start, 8 * (start + 20)):
        (tmp_path / "copy" / MANIFEST).write_bytes(text)
        flipped(tmp_path / "copy" / MANIFEST, bit)
        with pytest.raises(PackageError, match=r"changed since the export|cannot be read|format_version"):
            Package.open(tmp_path / "copy")


class Double:
    """Stands for an ONNX Runtime that computes one operator otherwise."""

    def __init__(self, output: str) -> None:
        self.output = output

    def run(self, program: Program, feeds: dict[str, Any], outputs: list[str]) -> list[Any]:
        found = program.session.run(list(outputs), dict(feeds))
        if NOTHING not in feeds:
            return found
        return [np.float32(0.61) if name == self.output else value for name, value in zip(outputs, found, strict=True)]

    def register(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        patch.setattr(home, "answers_folder", lambda: folder)  # nothing is remembered of the real one
        patch.setattr(Program, "run", lambda program, feeds, outputs: self.run(program, feeds, outputs))


@pytest.mark.parametrize("operator", ["GroupQueryAttention", "MatMulNBits", "GatherBlockQuantized", "RMSNormalization"])
def test_a_planted_wrong_operator_is_caught_by_name(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: str
) -> None:
    Double(f"{operator}.0").register(monkeypatch, tmp_path)
    [failed] = failures(verify_package(package))
    assert failed.name.endswith(operator)
    assert f"{operator} otherwise than the package needs it (off by 0.61" in failed.detail
    assert "pip install -U 'edgelm[cpu]'" in failed.detail
    with pytest.raises(EdgeLMError, match=f"{operator} otherwise than"):
        edgelm.load(package)


def test_right_answers_are_remembered_and_wrong_ones_are_not(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Double("MatMulNBits.0").register(patch, tmp_path)
        assert failures(verify_package(package))
    monkeypatch.setattr(home, "answers_folder", lambda: tmp_path)
    assert list(tmp_path.iterdir()) == []
    opened = Package.open(package)
    first = known_answers.package_answers(opened, CPU)
    assert len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Program, "__init__", lambda *_, **__: pytest.fail("asked again"))
        assert known_answers.package_answers(opened, CPU) == first
    [remembered] = tmp_path.iterdir()
    remembered.write_text("[]")  # of no use, so it is replaced
    assert known_answers.package_answers(opened, CPU) == first
    assert remembered.read_text() != "[]"


def test_another_build_or_processor_is_asked_again(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "answers_folder", lambda: tmp_path)
    opened = Package.open(package)
    known_answers.package_answers(opened, CPU)
    monkeypatch.setattr(known_answers, "_environment", lambda: "another")
    known_answers.package_answers(opened, CPU)
    known_answers.package_answers(opened, replace(CPU, session_config={}))  # as are other kernels of the same provider
    assert len(list(tmp_path.iterdir())) == 3


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(home, "answers_folder", lambda: tmp_path / "file" / "answers")
    assert all(answer.right for answer in known_answers.package_answers(Package.open(package), CPU))


def with_graph(folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    """The package with another decoder graph, digests and all."""
    file = folder / "decoder.onnx"
    model = onnx.load(file, load_external_data=False)
    change(model)
    file.write_bytes(model.SerializeToString())
    return with_manifest(folder, "files", "decoder.onnx", {"sha256": sha256(file), "size": file.stat().st_size})


def with_manifest(folder: Path, key: str, name: str, value: Any) -> Path:
    values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    values[key][name] = value
    (folder / MANIFEST).write_text(sealed(values), encoding="utf-8", newline="\n")
    return folder


def test_an_operator_that_this_onnx_runtime_lacks_is_named(copy: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        next(
            node for node in model.graph.node if node.op_type == "GroupQueryAttention"
        ).op_type = "GroupQueryAttention2"

    [failed] = failures(verify_package(with_graph(copy, rename)))
    assert failed.name == "operators of decoder"
    assert "GroupQueryAttention2" in failed.detail
    assert "pip install -U 'edgelm[cpu]'" in failed.detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: replace(m, vocab_size=130), r"output logits has shape .*128\], not \['batch', 'n', 130\]"),
        (lambda m: replace(m, family="encoder-decoder"), "input cross_key_values.0.key is missing"),
        (lambda m: replace(m, cache=replace(m.kv_cache, dtype="float16")), r"tensor\(float\), not float16"),
        (
            lambda m: replace(m, cache=replace(m.kv_cache, layers=m.kv_cache.layers[:1])),
            "past_key_values.1.key is not known",
        ),
    ],
)
def test_a_signature_that_is_not_the_manifests_is_told(package: Path, change: Any, message: str) -> None:
    opened = Package.open(package)
    program = Program(opened.program("decoder"), CPU)
    assert differences(opened.manifest, "decoder", program) == []
    assert re.search(message, "; ".join(differences(change(opened.manifest), "decoder", program)))
    assert differences(opened.manifest, "encoder", program) == ["a package of family decoder has no program encoder"]


@pytest.mark.parametrize("made", [decoder_package, seq2seq_package])
def test_programs_with_a_growing_cache_have_their_signature_too(made: Callable[[Path], Path], tmp_path: Path) -> None:
    opened = Package.open(made(tmp_path / "package"))
    for name in opened.manifest.programs:
        assert differences(opened.manifest, name, Program(opened.program(name), CPU)) == []


def test_other_tokens_than_recorded_are_told(copy: Path) -> None:
    tokens = Package.open(copy).manifest.recorded_run["token_ids"]
    changed = [*tokens[:7], (tokens[7] + 1) % 128, *tokens[8:]]
    [failed] = failures(verify_package(with_manifest(copy, "recorded_run", "token_ids", changed)))
    assert failed.name == "recorded run"
    assert "0.02 is allowed for other processors; an operator may be wrong here: edgelm doctor" in failed.detail


def test_a_recorded_run_of_nonsense_fails(copy: Path) -> None:
    [failed] = failures(verify_package(with_manifest(copy, "recorded_run", "token_ids", "x")))
    assert failed.detail.startswith("it fails (")


def test_a_near_tie_may_fall_either_way(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Package.open(package)
    programs = {"decoder": Program(opened.program("decoder"), CPU)}
    assert str(repeat(opened.manifest, programs)) == "24 of 24 outputs as recorded"
    near = Repeated(24, 23, 1, NEAR_TIE / 2)
    assert near.right
    assert str(near) == "23 of 24 outputs as recorded, 1 nearly (off by 0.01 of the largest)"
    assert not Repeated(24, 23, 0, 2 * NEAR_TIE).right


def test_a_run_fits_into_a_short_context(package: Path) -> None:
    opened = Package.open(package)
    programs = {"decoder": Program(opened.program("decoder"), CPU)}
    run = record(replace(opened.manifest, context_length=10), programs, list(range(3, 40)))
    assert (len(run["input_ids"]), len(run["token_ids"])) == (5, 5)


def test_what_was_not_measured_is_not_repeated(checkpoint: Path, tmp_path: Path) -> None:
    bare = edgelm.export(checkpoint, tmp_path / "out", precision="int4", verify=False).path
    checks = list(verify_package(bare))
    assert all(check.ok for check in checks)
    assert checks[-1].detail == "none: the package was exported without one for cpu"


def test_a_folder_that_is_no_package_fails_the_first_check(tmp_path: Path) -> None:
    [failed] = verify_package(tmp_path)
    assert (failed.name, failed.ok) == ("manifest", False)
    assert "make one with edgelm export" in failed.detail


def test_a_device_that_is_not_there_is_told(package: Path) -> None:
    [failed] = failures(verify_package(package, "tpu"))
    assert failed.name == "provider"
    assert "device 'tpu' is not known" in failed.detail


def test_figures_that_got_worse_are_told_and_others_are_not() -> None:
    recorded = {"prefill": {"mean_kld": 0.01, "top1_agreement": 0.95}, "outputs": {"mean_cosine": 0.999}}
    assert [check.ok for check in compared(recorded, recorded)] == [True, True]
    better = {"prefill": {"mean_kld": 0.005, "top1_agreement": 0.99}}
    assert [check.ok for check in compared(recorded, better)] == [True]
    [worse, cosine] = compared(
        recorded, {"prefill": {"mean_kld": 0.02, "top1_agreement": 0.9}, "outputs": {"mean_cosine": 0.99}}
    )
    assert worse.detail.startswith(
        "mean kld 0.02 (recorded 0.01), top1 agreement 0.9 (recorded 0.95); mean_kld, top1_agreement got"
    )
    assert not cosine.ok
    [unrecorded] = compared({}, {"decode": {"mean_kld": 0.02}})
    assert unrecorded.ok
