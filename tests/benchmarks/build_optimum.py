"""CHECKPOINT OUT fp32|int8: Optimum's ONNX export of an encoder, then its dynamic quantization. Runs inside .venv-bench-optimum."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig


def build(checkpoint: Path, out: Path, precision: str) -> None:
    model = ORTModelForFeatureExtraction.from_pretrained(checkpoint, export=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = out if precision == "fp32" else Path(scratch)
        model.save_pretrained(folder)
        if precision == "int8":
            quantizer = ORTQuantizer.from_pretrained(folder)
            config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
            quantizer.quantize(save_dir=out, quantization_config=config)
    shutil.copyfile(checkpoint / "tokenizer.json", out / "tokenizer.json")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
