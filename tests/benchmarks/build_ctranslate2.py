"""CHECKPOINT OUT: CTranslate2's own converter, int8. Runs inside .venv-bench-encoders."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ctranslate2.converters import TransformersConverter


def build(checkpoint: Path, out: Path) -> None:
    TransformersConverter(str(checkpoint)).convert(str(out), quantization="int8")
    shutil.copyfile(checkpoint / "tokenizer.json", out / "tokenizer.json")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
