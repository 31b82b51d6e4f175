"""onnxruntime-gpu itself on a machine without a GPU: what it misses, and, with a stand-in for CUDA's libraries, all but the numbers.

Run by `make cuda`, in an environment of its own: the wheels of ONNX Runtime for CPU and GPU exclude each other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.errors import ProviderError
from tests.architectures.encoder_goldens import golden_checkpoint as encoder_checkpoint
from tests.architectures.encoder_goldens import golden_classes
from tests.architectures.seq2seq_goldens import golden_checkpoint as seq2seq_checkpoint
from tests.golden.cases import golden_cases
from tests.golden.encoder_cases import encoder_golden_cases
from tests.golden.seq2seq_cases import seq2seq_golden_cases
from tests.gpu import list_schemas
from tests.gpu.kernel_rules import REFUSALS, SCHEMAS
from tests.gpu.stand_in import build, libraries, tools

GOLDENS = Path(__file__).parents[1] / "golden"
WALK = Path(__file__).with_name("walk.py")

# What the host may compute: shapes, which are small whole numbers there from the beginning.
SHAPES = {
    "Squeeze",
    "Concat",
    "Add",
    "Sub",
    "Where",
    "Unsqueeze",
    "Gather",
    "Cast",
    "LessOrEqual",
    "Div",
    "Mul",
    "Range",
}

# What is refused, with an error and nothing worse: here a quantized table of bfloat16.
REFUSED = {("int8", "bf16"): {"deberta-v2-convolution"}}

Run = Callable[..., subprocess.CompletedProcess[str]]

needs_tools = pytest.mark.skipif(not tools(), reason="the stand-in wants a C compiler and nm")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python code (or a file with arguments) where CUDA's libraries are the stand-in's."""
    folder = tmp_path_factory.mktemp("stand-in")
    build(folder, libraries())

    def python(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(sys.path)
        where = {
            **os.environ,
            "LD_LIBRARY_PATH": str(folder),
            "PYTHONPATH": path,
            "STAND_IN_DRIVER": "13000",
            **settings,
        }
        return subprocess.run([sys.executable, *arguments], env=where, capture_output=True, text=True, timeout=600)

    return python


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(GOLDENS / "llama", tmp_path_factory.mktemp("llama") / "out")


def exported(source: Path, out: Path, precision: str = "fp32", activations: str = "fp16") -> Path:
    edgelm.export(source, out, precision=precision, device="cuda", activations=activations, verify=False)
    return out


def test_without_cuda_an_error_names_what_is_missing(llama: Path) -> None:
    for device in ("auto", "cuda"):
        with pytest.raises(
            ProviderError, match=r"(?s)no NVIDIA driver .*cuBLAS .*cannot be loaded.*pip install 'edgelm\[cuda\]'"
        ):
            edgelm.load(llama, device=device)


@needs_tools
@pytest.mark.parametrize("form", [("fp32", "fp16"), ("fp32", "bf16"), ("int4", "fp16"), ("int4", "bf16")])
def test_decode_steps_of_every_decoder_stay_on_the_device(form: tuple[str, str], run: Run, tmp_path: Path) -> None:
    folders = [exported(GOLDENS / case, tmp_path / case, *form) for case in sorted(golden_cases())]
    found = walk(run, folders)
    assert {name: facts for name, facts in found.items() if "error" in facts} == {}
    assert {name for name, facts in found.items() if not facts["captured"]} == set()
    assert {op for facts in found.values() for op in facts["host"]} <= {"Squeeze", "Concat"}


@needs_tools
@pytest.mark.parametrize("form", [("fp32", "fp16"), ("int8", "bf16")])
def test_encoders_and_encoder_decoders_run(form: tuple[str, str], run: Run, tmp_path: Path) -> None:
    sources = {name: seq2seq_checkpoint(name, tmp_path / f"{name}-source") for name in sorted(seq2seq_golden_cases())}
    for case in sorted(encoder_golden_cases()):
        first = next(iter(golden_classes(case)))
        sources[case] = encoder_checkpoint(case, first, tmp_path / f"{case}-source")
    folders = [exported(source, tmp_path / name, *form) for name, source in sources.items()]
    found = walk(run, folders)
    refused = {name: found.pop(name)["error"] for name in list(found) if "error" in found[name]}
    assert set(refused) == REFUSED.get(form, set()), refused
    assert {op for facts in found.values() for op in facts["host"]} <= SHAPES
    assert {name for name, facts in found.items() if facts["family"] != "encoder" and not facts["captured"]} == set()


@needs_tools
def test_only_ids_and_logits_cross_the_bus_and_steps_are_replayed(llama: Path, run: Run, tmp_path: Path) -> None:
    code = "model.generate([3, 4, 5], max_new_tokens={}, temperature=0.0, eos_token_id=())"
    reports = [report(run, llama, code.format(count), tmp_path / f"{count}.json") for count in (10, 30)]
    assert [one["captures"] for one in reports] == [1, 1]
    assert reports[1]["replays"] - reports[0]["replays"] == 20
    assert reports[0]["launches"] == reports[1]["launches"]
    assert reports[0]["sent"] == reports[1]["sent"]


@needs_tools
def test_memory_that_runs_out_is_an_error_that_a_smaller_length_cures(llama: Path, run: Run) -> None:
    code = """
import gc, sys
import edgelm
model = edgelm.load(sys.argv[1], device="cuda", max_batch=20)
options = {"max_new_tokens": 2, "temperature": 0.0, "eos_token_id": ()}
try:
    model.generate([[3] * 200] * 20, **options)
except edgelm.errors.OutOfDeviceMemory as error:
    print(error)
print(len(model.generate([3] * 200, **options).token_ids), "tokens by the same model")
model.close()
del model
gc.collect()  # the error's traceback holds rows
smaller = edgelm.load(sys.argv[1], device="cuda", max_batch=20, max_length=64)
print(len(smaller.generate([[3] * 40] * 20, **options)), "answers with a smaller length")
"""
    done = run("-c", code, str(llama), STAND_IN_BYTES="3000000")
    weights = (llama / "decoder.onnx.data").stat().st_size / 1e6
    assert f"cuda:0 is out of memory: the weights take {weights:.1f} MB, " in done.stdout, done.stderr
    assert re.search(r"a KV cache of 256 positions in \d+ rows takes .* MB and about \d+ would fit beside", done.stdout)
    assert "Exception in thread" not in done.stderr
    assert "2 tokens by the same model" in done.stdout, done.stderr
    assert "20 answers with a smaller length" in done.stdout, done.stderr


@needs_tools
def test_weights_that_do_not_fit_are_an_error(llama: Path, run: Run) -> None:
    done = run("-c", HEAD, str(llama), STAND_IN_BYTES="1000")
    weights = (llama / "decoder.onnx.data").stat().st_size / 1e6
    assert f"OutOfDeviceMemory: cuda:0 is out of memory: the weights take {weights:.1f} MB, " in done.stderr
    assert "the model does not fit: export it with fewer bits" in done.stderr


@needs_tools
def test_a_limit_of_the_user_is_kept_as_memory_is(llama: Path, run: Run) -> None:
    code = HEAD.replace('"cuda")', '"cuda", provider_options={"gpu_mem_limit": "1000"})')
    done = run("-c", code, str(llama))
    assert "OutOfDeviceMemory: cuda:0 is out of memory: " in done.stderr


@needs_tools
def test_two_models_on_one_gpu(llama: Path, run: Run) -> None:
    code = """
other = edgelm.load(sys.argv[1], device="cuda:0")
for one in (model, other, model):
    print(one.generate([3, 4], max_new_tokens=2, temperature=0.0, eos_token_id=()).token_ids)
"""
    assert run("-c", HEAD + code, str(llama)).stdout.count("[0, 0]") == 3


@needs_tools
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"STAND_IN_DRIVER": "12040"}, "supports CUDA 12.4 only and CUDA 13 is needed"),
        ({"STAND_IN_GPUS": "0"}, "there is no device 0: cuda has 0 on this machine"),
    ],
)
def test_a_machine_that_cannot_says_why(settings: dict[str, str], message: str, llama: Path, run: Run) -> None:
    assert message in run("-c", HEAD, str(llama), **settings).stderr


@needs_tools
def test_a_gpu_is_taken_by_its_number_and_one_that_is_not_there_is_refused(llama: Path, run: Run) -> None:
    second = HEAD.replace('"cuda"', '"cuda:1"') + "print(model.device)"
    assert run("-c", second, str(llama), STAND_IN_GPUS="2").stdout.strip().splitlines()[-1].startswith("cuda:1; ")
    message = "device cuda:1 cannot be used: there is no device 1: cuda has 1 on this machine, counted from 0"
    assert message in run("-c", second, str(llama), STAND_IN_GPUS="1").stderr


@needs_tools
def test_arrays_on_the_device_do_what_those_of_numpy_do(run: Run) -> None:
    assert run("-c", ARRAYS).stdout.strip().endswith("equal")


@needs_tools
def test_the_cache_on_the_device_does_what_the_one_on_the_host_does(run: Run) -> None:
    assert run("-c", CACHES).stdout.strip().endswith("equal")


def test_kernels_refuse_in_the_words_of_the_table() -> None:
    binary = (libraries() / "libonnxruntime_providers_cuda.so").read_bytes()
    said = [rule.says for kernel in REFUSALS.values() for rule in kernel.rules]
    assert [text for text in said if text.encode() not in binary] == []


def test_operators_take_what_the_table_says() -> None:
    listed = [line for line in SCHEMAS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert list_schemas.schemas() == listed


def walk(run: Run, folders: list[Path]) -> dict[str, Any]:
    done = run(str(WALK), *map(str, folders))
    assert done.returncode == 0, done.stderr[-2000:]
    return {Path(name).name: facts for name, facts in json.loads(done.stdout.splitlines()[-1]).items()}


def report(run: Run, package: Path, code: str, file: Path) -> dict[str, int]:
    done = run("-c", HEAD + code, str(package), STAND_IN_REPORT=str(file))
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(file.read_text(encoding="utf-8"))


HEAD = """
import sys
import edgelm
model = edgelm.load(sys.argv[1], device="cuda")
"""

ARRAYS = """
import numpy as np
from edgelm.cuda import DeviceMemory
rng, memory = np.random.default_rng(0), DeviceMemory(0)
host = rng.normal(size=(3, 2, 5, 4)).astype(np.float16)
device = memory.empty(host.shape, "float16")
assert not device.numpy().any()
device[...] = host
keys = [1, slice(1, 3), (0, slice(None), slice(1, 4)), (slice(None), 1), (2, 1, 3, 2), (..., slice(1, 3)), -1, slice(2, 2)]
for key in keys:
    assert device[key].shape == host[key].shape
    assert np.array_equal(device[key].numpy(), host[key]), key
device[0, :, 1:4] = device[2, :, 0:3]
host[0, :, 1:4] = host[2, :, 0:3]
device[1, 0] = np.ones((5, 4), np.float16)
host[1, 0] = 1
assert np.array_equal(device.numpy(), host)
assert np.array_equal(device.take([2, 0, 2], axis=0).numpy(), host[[2, 0, 2]])
assert np.array_equal(device[1, :, 2:].copy().numpy(), host[1, :, 2:])
for bad in (lambda: device[3], lambda: device.__setitem__(0, host)):
    try:
        bad()
    except (IndexError, ValueError):
        continue
    raise SystemExit("no error")
print("equal")
"""

CACHES = """
import numpy as np
from edgelm.cache import StaticKVCache
from edgelm.cuda import DeviceMemory
from edgelm.signature import CacheGeometry, LayerCache
rng = np.random.default_rng(0)
geometry = CacheGeometry((LayerCache(2, 8), LayerCache(1, 16)), "float16")
host, device = StaticKVCache(geometry, 3, 1000), StaticKVCache(geometry, 3, 1000, DeviceMemory(0))
def both(act):
    act(host), act(device)
def same():
    for one, other in zip(host._buffers, device._buffers, strict=True):
        assert np.array_equal(one, other.numpy())
for row, count in enumerate((5, 9, 200)):
    for one, other in zip(host._buffers, device._buffers, strict=True):
        values = rng.normal(size=one[row, :, :count].shape).astype(np.float16)
        one[row, :, :count] = values
        other[row, :, :count] = values
    both(lambda cache: cache.advance(row, count))
for parents in ([1, 0, 2], [2, 2], [0, 1, 0, 1, 1], [4, 3, 2, 1, 0]):
    both(lambda cache: cache.reorder(parents))
    same()
both(lambda cache: cache.reserve(400))
same()
both(lambda cache: cache.truncate(0, 3))
print("equal")
"""
