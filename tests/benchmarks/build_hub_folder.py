"""CHECKPOINT.gguf OUT: the same weights as a float32 folder in hub layout, for peers that read no GGUF. Runs inside .venv-bench-genai."""

from __future__ import annotations

import sys
from pathlib import Path

from build_genai import dequantize

if __name__ == "__main__":
    dequantize(Path(sys.argv[1]), Path(sys.argv[2]))
