"""CHECKPOINT OUT BITS [GROUP]: a decoder as OpenVINO IR, weights compressed by NNCF as Optimum asks. Runs inside .venv-bench-openvino."""

from __future__ import annotations

import sys
from pathlib import Path


def build(checkpoint: Path, out: Path, bits: int, group: int) -> None:
    # Conversion and compression would report themselves over the network; without this module they stay silent.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import AutoTokenizer

    config = OVWeightQuantizationConfig(bits=bits, sym=False, group_size=group if bits == 4 else -1)
    OVModelForCausalLM.from_pretrained(checkpoint, export=True, quantization_config=config).save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    names = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
    for name, model in zip(names, convert_tokenizer(tokenizer, with_detokenizer=True), strict=True):
        openvino.save_model(model, out / name)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
