"""edgelm doctor: what it says of this machine, and of others that something is wrong with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result

from edgelm import cuda, doctor, home, providers
from edgelm.cli import cli
from edgelm.doctor import Finding
from edgelm.errors import ProviderError
from edgelm.session import Program


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments])


def problems(result: Result) -> dict[str, str]:
    found = json.loads(result.stdout)["findings"]
    return {finding["name"]: finding["advice"] for finding in found if finding["advice"]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path))
    monkeypatch.setattr(home, "answers_folder", lambda: tmp_path / "answers")


def test_this_machine_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 8e9)
    result = run()
    assert result.exit_code == 0, result.output
    for part in (onnxruntime.__version__, "provider cpu", "operators on cpu", "CUDA", "processor", "cache folder"):
        assert part in result.stdout
    assert "13 compute what they should, in 26 settings" in result.stdout


def without_onnxruntime(patch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ProviderError("ONNX Runtime is not installed; choose one: pip install 'edgelm[cpu]'")

    patch.setattr(doctor, "check_onnxruntime", refuse)


def without_cpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])


@pytest.mark.parametrize(
    ("harm", "name", "advice"),
    [
        (without_onnxruntime, "ONNX Runtime", "choose one: pip install 'edgelm[cpu]'"),
        (without_cpu, "provider cpu", "has no CPUExecutionProvider: pip install -U 'edgelm[cpu]'"),
    ],
)
def test_where_nothing_can_run_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, harm: Callable[[pytest.MonkeyPatch], None], name: str, advice: str
) -> None:
    harm(monkeypatch)
    result = run("--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["usable"] is False
    assert advice in problems(result)[name]
    assert "operators on cpu" not in result.stdout


def test_an_old_onnx_runtime_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.30.2")
    result = run("--json")
    assert result.exit_code == 0
    assert problems(result)["ONNX Runtime"] == "edgelm needs 1.31 or newer: pip install -U onnxruntime"


def test_a_wrong_operator_is_told_by_its_name_and_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Program.run

    def planted(program: Program, feeds: Any, outputs: Any) -> list[Any]:
        found = original(program, feeds, outputs)
        wrong = np.float32(0.61)
        return [wrong if name == "QMoE.0" else value for name, value in zip(outputs, found, strict=True)]

    monkeypatch.setattr(Program, "run", planted)
    result = run("--json")
    assert result.exit_code == 0
    assert "computes com.microsoft QMoE otherwise than edgelm needs it" in problems(result)["com.microsoft QMoE on cpu"]
    assert "12 compute what they should" in result.stdout


def test_operators_that_cannot_be_tried_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ProviderError("ONNX Runtime refuses it")

    monkeypatch.setattr(Program, "__init__", refuse)
    assert problems(run("--json"))["operators on cpu"] == "ONNX Runtime refuses it"


def test_a_provider_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = {"cpu": (), "gpu": ("there is no driver: install one", "there is no wheel: pip install it")}
    entries = {
        name: providers.PROVIDERS["cpu"].__class__(**{**vars(providers.PROVIDERS["cpu"]), "name": name})
        for name in lacks
    }
    monkeypatch.setattr(doctor, "PROVIDERS", entries)
    monkeypatch.setattr(doctor, "missing", lambda provider: lacks[provider.name])
    result = run("--json")
    assert result.exit_code == 0
    assert problems(result)["provider gpu"] == "there is no driver: install one; there is no wheel: pip install it"


def test_cuda_libraries_are_told_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "driver_version", lambda: None)
    assert doctor._cuda().detail == "there is no NVIDIA driver, so no GPU to use"
    monkeypatch.setattr(cuda, "driver_version", lambda: (13, 1))
    monkeypatch.setattr(cuda, "libraries", lambda: {"cuBLAS (libcublas.so.13)": True, "cuDNN (libcudnn.so.9)": False})
    assert doctor._cuda() == Finding(
        "CUDA", "a driver for CUDA 13.1; cuBLAS (libcublas.so.13) found, cuDNN (libcudnn.so.9) missing"
    )


@pytest.mark.parametrize(
    ("features", "machine", "advice"),
    [
        (("avx", "fma"), "x86_64", "without AVX2 quantized weights run slower"),
        (("avx2", "fma"), "x86_64", "without VNNI products of 8-bit integers are slower"),
        (("avx2", "avx512_vnni"), "AMD64", ""),
        (("asimd",), "aarch64", ""),
    ],
)
def test_instruction_sets_that_matter(
    features: tuple[str, ...], machine: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    finding = doctor._processor(features, machine)
    assert finding.advice.startswith(advice)
    assert bool(finding.advice) == bool(advice)


def test_memory_and_room_are_told_when_they_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._memory(500_000_000).advice.startswith("little memory is free")
    assert doctor._memory(8_000_000_000).advice == ""
    assert "does not tell" in doctor._memory(None).detail
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    assert doctor._cache_folder(tmp_path / "new").advice.startswith("little room: free some, or set EDGELM_HOME")


def test_a_cache_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file cannot be written: set EDGELM_HOME" in doctor._cache_folder(tmp_path / "file" / "edgelm").advice


def test_an_exporter_that_is_not_there_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: name != "onnx")
    assert doctor._exporter() == Finding("exporter", "not installed (onnx); packages run without it")
