"""CHECKPOINT OUT SENTENCES.json: an encoder as OpenVINO IR, int8 by NNCF calibrated on the sentences. Runs inside .venv-bench-encoders."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from encoding import load_tokenizer, token_arrays


def build(checkpoint: Path, out: Path, sentences: Path) -> None:
    # Conversion and quantization would report themselves over the network; without this module they stay silent.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import nncf
    import openvino
    import torch
    from transformers import AutoModel

    texts = json.loads(sentences.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(checkpoint)
    model = AutoModel.from_pretrained(checkpoint, local_files_only=True).eval()
    example = {name: torch.from_numpy(array) for name, array in token_arrays(tokenizer, texts[:2]).items()}
    traced = openvino.convert_model(model, example_input=example)
    dataset = nncf.Dataset([token_arrays(tokenizer, [text]) for text in texts])
    quantized = nncf.quantize(traced, dataset, subset_size=len(texts), model_type=nncf.ModelType.TRANSFORMER)
    out.mkdir()
    openvino.save_model(quantized, out / "model.xml")
    shutil.copyfile(checkpoint / "tokenizer.json", out / "tokenizer.json")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
