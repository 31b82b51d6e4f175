"""CHECKPOINT OUT: genai's own model builder on the same checkpoint, int4 for CPU with its default options. Runs inside .venv-bench-genai.

The builder cannot read quantized GGUF files: such a file is first dequantized by transformers into a folder in hub layout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ENVIRONMENT = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def build(checkpoint: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = checkpoint
        if checkpoint.is_file():
            folder = Path(scratch) / "hub"
            dequantize(checkpoint, folder)
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(out)]
        command += ["-p", "int4", "-e", "cpu", "-c", str(Path(scratch) / "cache")]
        command += ["--extra_options", "int4_accuracy_level=4"]
        subprocess.run(command, check=True, env=ENVIRONMENT)


def dequantize(file: Path, folder: Path) -> None:
    """A GGUF file as a float32 folder in hub layout."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = file.name
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=name, dtype=torch.float32)
    # transformers refuses to save a model whose config still says that it is quantized.
    loaded.config.__dict__.pop("quantization_config", None)
    model = type(loaded)(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=name).save_pretrained(folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
