"""Packages for several devices, and what such packages cannot have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.errors import InvalidOption, OutOfDeviceMemory, ProviderError
from edgelm.verification import verify_package
from edgelm_export.pipeline import ExportOptions, export
from tests.architectures.encoder_goldens import golden_checkpoint as encoder_checkpoint
from tests.architectures.encoder_goldens import golden_classes
from tests.architectures.seq2seq_goldens import golden_checkpoint as seq2seq_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "llama"

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "decoder": lambda _: GOLDEN,
    "encoder": lambda folder: encoder_checkpoint("deberta-v2", next(iter(golden_classes("deberta-v2"))), folder),
    "encoder-decoder": lambda folder: seq2seq_checkpoint("t5", folder),
}

REFUSED = (
    r"out: the programs for cuda have bfloat16 activations, for which device cpu has no kernels; run them with --device cuda on a "
    r"machine that can, or export again with --device cpu,cuda"
)


def test_every_form_is_measured_and_recorded(tmp_path: Path) -> None:
    package = edgelm.export(GOLDEN, tmp_path / "out", precision="int4", device="cpu,cuda")
    assert package.manifest.quality["prefill"]
    assert package.manifest.recorded_run["token_ids"]
    other = package.on(("cuda",))
    assert (other.probes, other.manifest.programs) == ("probes.cuda.onnx", {"decoder": "decoder.cuda.onnx"})
    assert {other.probes, "decoder.cuda.onnx"} <= set(package.manifest.files)
    assert other.manifest.probes.keys()
    assert other.manifest.recorded_run["token_ids"]
    # Weights are the same, and the CPU's own form rounds the inputs of products too: both are about as far from the float graph.
    one, another = (form.manifest.quality for form in (package, other))
    assert another["prefill"]["mean_kld"] == pytest.approx(one["prefill"]["mean_kld"], rel=0.1)
    assert (one.get("ran_on"), another["ran_on"]) == (None, "cpu")
    assert {"quality.cuda.md", "quality.cuda.svg"} <= set(package.manifest.files)
    assert "(quality.cuda.svg)" in (package.path / "quality.cuda.md").read_text(encoding="utf-8")
    assert package.on(("cuda", "cpu")).manifest.device == "cuda"
    assert package.on(("cpu",)) is package


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_programs_for_cuda_are_measured_with_the_kernels_of_the_cpu(
    family: str, precision: str, tmp_path: Path
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("wa zu ki, wo. " * 20, encoding="utf-8")
    source = FAMILIES[family](tmp_path / "source")
    package = edgelm.export(source, tmp_path / "out", precision=precision, device="cuda", eval_text=text)
    quality = package.manifest.quality
    assert (quality["ran_on"], package.manifest.activations) == ("cpu", "float16")
    assert quality["layers"]
    if precision == "fp32":
        figures = quality.get("decode", quality.get("outputs", {}))
        assert 0 < figures.get("mean_kld", 1 - figures.get("mean_cosine", 1) + 1e-9) < 1e-3
    assert [check for check in verify_package(package.path, "cpu") if not check.ok] == []
    assert package.manifest.recorded_run["input_ids"]


def test_what_cannot_run_here_is_built_and_that_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    options = ExportOptions(precision="int4", device="cuda", activations="bf16")
    package = export(GOLDEN, tmp_path / "out", options, told.append)
    [said] = [line for line in told if "built, not run here" in line]
    assert said.startswith("verification of the programs for cuda skipped: ")
    assert "no kernels for bfloat16 activations" in package.manifest.quality["skipped"]
    assert "--device cuda --against CHECKPOINT --record" in package.manifest.quality["skipped"]
    assert not package.manifest.recorded_run
    assert package.manifest.probes.keys()


def test_a_gpu_too_small_to_verify_on_does_not_fail_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutOfDeviceMemory(3_000_000, 1_000_000, 8_000_000, "cuda:0")

    monkeypatch.setattr("edgelm_export.verified.verify", full)
    package = edgelm.export(GOLDEN, tmp_path / "out", precision="int4", device="cuda")
    assert "built, not run here: cuda:0 is out of memory" in package.manifest.quality["skipped"]


def test_a_package_without_programs_for_the_cpu_is_refused_there_before_a_session_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for family, golden in FAMILIES.items():
        out = tmp_path / family / "out"
        edgelm.export(golden(tmp_path / family / "in"), out, device="cuda", activations="bf16", verify=False)
        monkeypatch.setattr("onnxruntime.InferenceSession", None)
        with pytest.raises(ProviderError, match=REFUSED):
            edgelm.load(out, device="cpu")
        [*_, check] = verify_package(out, "cpu")
        assert (check.name, check.ok) == ("provider", False)
        assert re.search(REFUSED, check.detail)
        monkeypatch.undo()


@pytest.mark.parametrize("device", ["cuda", "cpu,cuda"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"keep_adapter": {"one": "folder"}}, "--keep-adapter: not for packages that run on cuda"),
        ({"max_kld": 0.1}, "--max-kld: not for packages that run on cuda; export with --device cpu"),
        ({"target_size": "1MB"}, "--target-size: not for packages that run on cuda"),
        ({"precision": "keep"}, "recipe keep: cuda lacks kernels for a checkpoint's own integers; name another"),
    ],
)
def test_what_does_not_work_with_cuda_is_refused(
    device: str, options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match=match):
        edgelm.export(GOLDEN, tmp_path / "out", device=device, **options)
    assert not (tmp_path / "out").exists()
