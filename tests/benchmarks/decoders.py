"""Who runs a decoder: our packages of several precisions, and peers' of the same float32 GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from contenders import EDGELM, Contender, build_in, export_package, prepare

import edgelm
from edgelm_export.sources import resolve_source

# The float package is what every other one is compared with; it is not measured for speed unless named.
REFERENCE = "edgelm-fp32"
OURS = "edgelm"

_LLAMACPP = ("llama-cpp-python", "gguf")
_GENAI = ("onnxruntime-genai", "onnxruntime", "torch", "transformers")

# Largest mean KL divergence that a user may want to bear.
BUDGETS = (0.3, 0.1, 0.05, 0.01)


def decoders(threads: int) -> Mapping[str, Contender]:
    """All of them, by name."""
    described = [
        _edgelm("int4", "edgelm, default int4", threads),
        _edgelm("int4", "edgelm, default int4, --kv-cache int8", threads, kv_cache="int8"),
        _edgelm("int4-plain", "edgelm, round to nearest, block 32, 8-bit head", threads),
        _edgelm("int8", "edgelm, int8", threads),
        _edgelm("int8-rows", "edgelm, int8-rows", threads),
        _edgelm("int8-prefill", "edgelm, int8-prefill", threads),
        _edgelm("fp32", "edgelm, float32", threads),
        *(_within(budget, threads) for budget in BUDGETS),
        *(_llamacpp(kind, threads) for kind in ("Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")),
        _genai("genai-int4", f"onnxruntime-genai, int4, accuracy level 4, {threads} threads", threads),
        _genai("genai-int4-own-threads", "the same, with the number of threads it chooses itself", None),
        _openvino(4, 64, threads),
        _openvino(8, -1, threads),
        _ctranslate2(threads),
        _pytorch("float32", threads),
        _pytorch("bfloat16", threads),
    ]
    return {contender.name: contender for contender in described}


def own_package(model: str, threads: int, precision: str = "int4") -> Path:
    """Our package of the checkpoint that a source leads to, made where it is not there."""
    return prepare(decoders(threads)[f"{OURS}-{precision}"], resolve_source(model).path)


def _edgelm(precision: str, about: str, threads: int, kv_cache: str | None = None) -> Contender:
    name = f"edgelm-{precision}" + (f"-kv-cache-{kv_cache}" if kv_cache else "")
    make = partial(export_package, precision, kv_cache=kv_cache)
    return Contender(name, about, "worker_edgelm.py", EDGELM, threads, make, name)


def _within(budget: float, threads: int) -> Contender:
    """Formats chosen for a divergence, at the fewest bytes."""
    name = f"edgelm-kld-{budget:g}"

    def make(checkpoint: Path, folder: Path) -> None:
        edgelm.export(checkpoint, folder, max_kld=budget, force=True)

    return Contender(name, f"edgelm, --max-kld {budget:g}", "worker_edgelm.py", EDGELM, threads, make, name)


def _llamacpp(kind: str, threads: int) -> Contender:
    name = f"llamacpp-{kind}"

    def make(checkpoint: Path, folder: Path) -> None:
        build_in("llamacpp", "build_llamacpp_type.py", checkpoint, folder, kind)

    return Contender(name, f"llama.cpp, {kind}", "worker_llamacpp.py", _LLAMACPP, threads, make, name, peer="llamacpp")


def _genai(name: str, about: str, threads: int | None) -> Contender:
    make = partial(build_in, "genai", "build_genai.py")
    return Contender(name, about, "worker_genai.py", _GENAI, threads, make, "genai-int4", peer="genai")


def _pytorch(dtype: str, threads: int) -> Contender:
    """It reads the checkpoint in hub layout, which other peers' packages are made of as well."""
    return Contender(
        f"pytorch-{dtype}",
        f"PyTorch through transformers, {dtype}",
        "worker_pytorch_decoder.py",
        ("torch", "transformers"),
        threads,
        partial(build_in, "genai", "build_hub_folder.py"),
        "hub-folder",
        peer="encoders",
        options={"dtype": dtype},
    )


def _openvino(bits: int, group: int, threads: int) -> Contender:
    return Contender(
        f"openvino-int{bits}",
        f"OpenVINO GenAI, int{bits}" + (f", groups of {group}" if group > 0 else ""),
        "worker_openvino_decoder.py",
        ("openvino-genai", "openvino", "nncf", "optimum-intel"),
        threads,
        _of_hub_folder("openvino", "build_openvino_decoder.py", str(bits), str(group)),
        f"openvino-int{bits}",
        peer="openvino",
    )


def _ctranslate2(threads: int) -> Contender:
    return Contender(
        "ctranslate2-int8",
        "CTranslate2, int8",
        "worker_ctranslate2_decoder.py",
        ("ctranslate2",),
        threads,
        _of_hub_folder("encoders", "build_ctranslate2.py"),
        "ctranslate2-int8-decoder",
        peer="encoders",
    )


def _of_hub_folder(peer: str, script: str, *arguments: str) -> Callable[[Path, Path], None]:
    """Makes a package by a peer's exporter, of the checkpoint in hub layout."""
    source = _pytorch("float32", 1)
    return lambda checkpoint, folder: build_in(peer, script, prepare(source, checkpoint), folder, *arguments)
