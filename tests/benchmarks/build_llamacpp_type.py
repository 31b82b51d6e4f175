"""CHECKPOINT.gguf OUT TYPE: what llama-quantize makes of a float32 GGUF file. Runs in llama.cpp's environment."""

from __future__ import annotations

import sys
from pathlib import Path

import llama_cpp


def build(checkpoint: Path, out: Path, kind: str) -> None:
    out.mkdir(parents=True)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    target = out / "model.gguf"
    if llama_cpp.llama_model_quantize(str(checkpoint).encode(), str(target).encode(), params):
        raise SystemExit(f"llama.cpp cannot make {kind} of {checkpoint}")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
