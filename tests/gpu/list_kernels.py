"""Prints kernels.txt: what an installed onnxruntime-gpu registers for CUDA. python tests/gpu/list_kernels.py > tests/gpu/kernels.txt."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.kernel_rules import OPSET
from tests.gpu.stand_in import build, libraries

_SHORT = {"float": "f32", "float16": "f16", "bfloat16": "bf16", "double": "f64"}


def kernels() -> list[str]:
    """One line a kernel."""
    from onnxruntime.capi import _pybind_state as state

    lines: set[str] = set()
    for kernel in state.get_all_opkernel_def():
        first, last = kernel.version_range
        if kernel.provider != "CUDAExecutionProvider" or kernel.domain not in ("", "com.microsoft"):
            continue
        if not kernel.domain and not first <= OPSET <= last:
            continue
        types = [f"{name}={','.join(map(_spelt, found))}" for name, found in sorted(kernel.type_constraints.items())]
        lines.add(" ".join([kernel.domain or "ai.onnx", kernel.op_name, str(first), *types]))
    return sorted(lines)


def _spelt(kind: str) -> str:
    name = kind.removeprefix("tensor(").removesuffix(")")
    return _SHORT.get(name, name)


if __name__ == "__main__":
    if "STAND_IN" in os.environ:
        print("\n".join(kernels()))
    else:
        head = Path(__file__).with_name("kernels.txt").read_text(encoding="utf-8").splitlines()
        print("\n".join(line for line in head if line.startswith("#")))
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), libraries(), tensorrt=True)
            settings = {**os.environ, "LD_LIBRARY_PATH": folder, "STAND_IN": "1"}
            print(
                subprocess.run(
                    [sys.executable, __file__], env=settings, capture_output=True, text=True, check=True
                ).stdout,
                end="",
            )
