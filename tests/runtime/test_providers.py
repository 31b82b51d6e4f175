from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import edgelm
from edgelm import cuda, providers
from edgelm.errors import InvalidOption, OutOfDeviceMemory, ProviderError
from edgelm.package import Package
from edgelm.providers import PLUGINS, PROVIDERS, find_provider, missing
from edgelm.text_generation import DecoderModel
from edgelm_export.pipeline import choose_providers


@pytest.fixture(scope="module")
def both(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package for the CPU and for CUDA."""
    out = tmp_path_factory.mktemp("both") / "out"
    return edgelm.export(checkpoint, out, precision="int4", device="cpu,cuda", verify=False)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA, whatever this one has."""
    monkeypatch.setattr(cuda, "problems", lambda: ["there is no NVIDIA driver (libcuda.so.1): install one"])


def present(monkeypatch: pytest.MonkeyPatch, count: int = 1) -> None:
    """A machine with CUDA as far as `missing` can tell."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [one.ort_name for one in PROVIDERS.values()])
    monkeypatch.setattr(cuda, "problems", list)
    monkeypatch.setattr(cuda, "device_count", lambda: count)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", r"device cuda cannot be used: .*no NVIDIA driver"),
        ("cuda:1", r"device cuda:1 cannot be used"),
        ("cuda:one", r"'one' is not the number of a device; write it as cuda:0"),
        ("mlx", r"onnxruntime-ep-mlx is not installed: pip install onnxruntime-ep-mlx"),
        (
            "abacus",
            r"device 'abacus' is not known \(known: auto, cpu, cuda, webgpu, openvino, mlx, tensorrt-rtx, and packages",
        ),
        ("cpu:3", r"there is no device 3: cpu has 1"),
    ],
)
def test_what_cannot_be_used_is_said_with_the_way_to_get_it(device: str, message: str) -> None:
    with pytest.raises(ProviderError, match=message):
        find_provider(device, package_devices=("cpu", "cuda"))


@pytest.mark.usefixtures("absent")
def test_auto_takes_the_cpu_and_says_why(both: Package) -> None:
    model = edgelm.load(both.path)
    assert model.device.startswith("cpu; cuda cannot be used: ")
    assert "driver" in model.device


@pytest.mark.usefixtures("absent")
def test_auto_does_not_fall_back_for_a_package_that_is_for_cuda_alone() -> None:
    with pytest.raises(
        ProviderError, match="the package has programs for cuda only, and cuda cannot be used: .*driver"
    ):
        find_provider("auto", package_devices=("cuda",))


def test_auto_takes_cuda_where_package_and_machine_can(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch)
    assert find_provider("auto", package_devices=("cpu", "cuda")).device == "cuda:0"
    assert find_provider("auto", package_devices=("cpu",)).device == "cpu"


def test_a_gpu_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch, 2)
    assert find_provider("cuda:1", package_devices=("cuda",)).index == 1
    with pytest.raises(ProviderError, match="there is no device 2: cuda has 2 on this machine, counted from 0"):
        find_provider("cuda:2", package_devices=("cuda",))


def test_a_device_wants_its_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch)
    with pytest.raises(
        ProviderError, match=r"programs for cpu, and device cuda .* export it again with --device cpu,cuda"
    ):
        find_provider("cuda", package_devices=("cpu",))


def test_an_old_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "driver_version", lambda: (12, 4))
    monkeypatch.setattr(cuda, "preload", lambda: None)
    assert "supports CUDA 12.4 only and CUDA 13 is needed: update it to 580" in cuda.problems()[0]


def test_what_is_missing_of_cuda_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_library", lambda name: None)
    driver, libraries = cuda.problems()
    assert "no NVIDIA driver" in driver
    assert "cuBLAS" in libraries
    assert "cuDNN" in libraries
    assert "pip install 'edgelm[cuda]'" in libraries


def test_a_build_without_the_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "has no CUDAExecutionProvider: pip uninstall" in missing(PROVIDERS["cuda"])[0]


def test_a_plugin_that_is_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "installed", lambda name: name == "edgelm-no-plugin")
    with pytest.raises(ProviderError, match="cannot load edgelm-no-plugin"):
        find_provider("edgelm-no-plugin")


def test_both_forms_share_their_weights(both: Package, checkpoint: Path, tmp_path: Path) -> None:
    alone = edgelm.export(checkpoint, tmp_path / "cuda", precision="int4", device="cuda", verify=False)
    assert both.manifest.devices == ("cpu", "cuda")
    assert {both.manifest.on(device).kv_cache.dtype for device in both.manifest.devices} == {"float32", "float16"}
    assert (both.path / "decoder.onnx.data").read_bytes() == (alone.path / "decoder.onnx.data").read_bytes()
    assert [file.name for file in both.path.glob("*.data")] == ["decoder.onnx.data"]


def test_both_forms_say_much_the_same(both: Package) -> None:
    ids = list(range(5, 25))
    whole = edgelm.load(both.path, device="cpu").logits(ids)
    half = DecoderModel(both.on(["cuda"]), PROVIDERS["cpu"]).logits(ids)
    # The CPU rounds the inputs of int4 products to 8 bits, and CUDA does not.
    assert abs(half - whole).max() < 0.1 * abs(whole).max()


@pytest.mark.parametrize("device", ["tpu", "cpu,cpu", "cpu,"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(InvalidOption, match=r"device .* is not known \(known: cpu, cuda, or several"):
        choose_providers(device, None)


def test_activations_are_those_of_the_device() -> None:
    cpu, gpu = choose_providers("cpu,cuda", "bf16")
    assert (cpu.activation_dtype, gpu.activation_dtype) == ("float32", "bfloat16")
    with pytest.raises(
        InvalidOption, match=r"activations 'bf16' are none that device cpu computes with \(known: fp32\)"
    ):
        choose_providers("cpu", "bf16")


def test_out_of_memory_says_what_was_wanted_and_what_to_do() -> None:
    error = OutOfDeviceMemory(3_000_000, 1_000_000, 8_000_000, "cuda:0")
    assert str(error).startswith("cuda:0 is out of memory: 3.0 MB more were asked for and 1.0 of 8.0 MB are free")
    assert "--max-length" in str(error)
    assert str(error.advise("do this")).endswith("; do this")


def test_plugins_are_not_entries_of_their_own() -> None:
    assert not set(PLUGINS) & set(PROVIDERS)


def test_provider_options_reach_the_entry() -> None:
    assert find_provider("cpu", options={"a": "b"}).options == {"a": "b"}
    assert replace(PROVIDERS["cuda"], index=1).device == "cuda:1"
