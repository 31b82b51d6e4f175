"""Who runs a sentence encoder: our packages, and Optimum, PyTorch, OpenVINO and CTranslate2 on the same checkpoint."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

from contenders import EDGELM, Contender, build_in, export_package
from protocol import ORDERS

from tests.real_text import sentences

# What cosines are taken against.
REFERENCE = "pytorch-fp32"
CALIBRATION_SENTENCES = 128

_OPTIMUM = ("optimum-onnx", "onnxruntime", "numpy", "tokenizers", "transformers", "torch")
_PYTORCH = ("torch", "transformers", "numpy", "tokenizers")
_OPENVINO = ("openvino", "nncf", "numpy", "tokenizers")
_CTRANSLATE2 = ("ctranslate2", "numpy", "tokenizers")


def encoders(threads: int) -> dict[str, Contender]:
    """All of them, by name."""
    described = [
        *(_edgelm(precision, threads) for precision in ("fp32", "int8")),
        *(_optimum(precision, about, threads) for precision, about in (("fp32", "float32"), ("int8", "dynamic int8"))),
        _pytorch(threads),
        *_openvino(threads),
        *_ctranslate2(threads),
    ]
    return {contender.name: contender for contender in described}


def _edgelm(precision: str, threads: int) -> Contender:
    name = f"edgelm-{precision}"
    return Contender(
        name,
        f"edgelm, {precision}",
        "worker_edgelm_encoder.py",
        EDGELM,
        threads,
        partial(export_package, precision),
        f"encoder-{name}",
        options={"orders": ORDERS[:1]},
    )


def _optimum(precision: str, about: str, threads: int) -> Contender:
    name = f"optimum-{precision}"
    return Contender(
        name,
        f"Optimum's ONNX export, {about}, ONNX Runtime with {threads} threads",
        "worker_optimum.py",
        _OPTIMUM,
        threads,
        lambda checkpoint, folder: build_in("optimum", "build_optimum.py", checkpoint, folder, precision),
        name,
        peer="optimum",
        options={"orders": ORDERS},
    )


def _pytorch(threads: int) -> Contender:
    return Contender(
        REFERENCE,
        f"PyTorch through transformers, float32, {threads} threads",
        "worker_pytorch.py",
        _PYTORCH,
        threads,
        None,
        REFERENCE,
        peer="encoders",
        options={"orders": ORDERS},
    )


def _openvino(threads: int) -> list[Contender]:
    about = f"OpenVINO, int8 by NNCF's post-training quantization, {threads} threads, performance hint"
    ways = {"openvino-int8": "LATENCY", "openvino-int8-throughput": "THROUGHPUT"}
    return [
        Contender(
            name,
            f"{about} {hint}",
            "worker_openvino.py",
            _OPENVINO,
            threads,
            _build_openvino,
            "openvino-int8",
            peer="encoders",
            options={"orders": ORDERS, "hint": hint},
        )
        for name, hint in ways.items()
    ]


def _ctranslate2(threads: int) -> list[Contender]:
    ways = {"ctranslate2-int8": (1, threads), "ctranslate2-int8-parallel": (threads, 1)}
    return [
        Contender(
            name,
            f"CTranslate2, int8, {batches} batch{'es' * (batches > 1)} at a time on {inside} thread{'s' * (inside > 1)} each",
            "worker_ctranslate2.py",
            _CTRANSLATE2,
            threads,
            partial(build_in, "encoders", "build_ctranslate2.py"),
            "ctranslate2-int8",
            peer="encoders",
            options={"orders": ORDERS, "batches_at_a_time": batches},
        )
        for name, (batches, inside) in ways.items()
    ]


def _build_openvino(checkpoint: Path, folder: Path) -> None:
    """Calibrated with sentences that neither speed nor quality is measured on."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(sentences("calibration", CALIBRATION_SENTENCES), file)
        file.flush()
        build_in("encoders", "build_openvino.py", checkpoint, folder, file.name)
