"""The tables of README.md: a few figures of the result files, between marks that name the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from page import table
from protocol import decode_key, ttft_key
from report_encoders import by_speed, fastest

# What README calls the contenders that it shows.
DECODERS = {
    "edgelm-kld-0.3": "edgelm `--max-kld 0.3`",
    "edgelm-int4": "edgelm `int4` (default)",
    "edgelm-kld-0.05": "edgelm `--max-kld 0.05`",
    "edgelm-int8-rows": "edgelm `int8-rows`",
    "edgelm-int8": "edgelm `int8`",
    "edgelm-int8-prefill": "edgelm `int8-prefill`",
    "llamacpp-Q4_K_M": "llama.cpp Q4_K_M",
    "llamacpp-Q6_K": "llama.cpp Q6_K",
    "llamacpp-Q8_0": "llama.cpp Q8_0",
    "genai-int4": "onnxruntime-genai int4",
    "openvino-int8": "OpenVINO int8",
    "ctranslate2-int8": "CTranslate2 int8",
    "pytorch-bfloat16": "PyTorch bfloat16",
    "pytorch-float32": "PyTorch float32",
}
ENCODERS = {
    "edgelm-int8": "edgelm `int8` (default)",
    "edgelm-fp32": "edgelm `fp32`",
    "openvino-int8": "OpenVINO int8",
    "ctranslate2-int8": "CTranslate2 int8",
    "optimum-int8": "Optimum dynamic int8",
    "optimum-fp32": "Optimum fp32",
    "pytorch-fp32": "PyTorch fp32",
}
MIX = "sentences"


def write_readme(readme: Path, results: Mapping[str, Any]) -> None:
    """Replaces what stands between `<!-- NAME.json -->` and `<!-- / -->` by the table of that result file."""
    text = readme.read_text(encoding="utf-8")
    for name, rows in {"speed": decoders, "encoders": encoders}.items():
        if name in results:
            written = f"<!-- {name}.json -->\n{rows(results[name])}<!-- / -->"
            text = re.sub(rf"<!-- {name}\.json -->.*?<!-- / -->", lambda _, new=written: new, text, flags=re.DOTALL)
    readme.write_text(text, encoding="utf-8")


def decoders(result: Mapping[str, Any]) -> str:
    rows = []
    for name, label in DECODERS.items():
        if name in result["contenders"]:
            entry = result["contenders"][name]
            decode, later, first = (
                entry["summary"][key]["median"] for key in (decode_key(32), decode_key(512), ttft_key(512))
            )
            rows.append(
                [
                    label,
                    f"{entry['bytes'] / 1e6:.0f} MB",
                    f"{entry['quality']['mean_kld']:.3f}",
                    f"{decode:.0f} tokens/s",
                    f"{later:.0f} tokens/s",
                    f"{first:.0f} ms",
                ]
            )
    return table(["", "on disk", "KL divergence", "decode after 32", "after 512", "first token after 512"], rows)


def encoders(result: Mapping[str, Any]) -> str:
    """Peers in the way to run them that was their fastest."""
    rows = []
    for name in by_speed(result["contenders"], MIX):
        entry = result["contenders"][name]
        package = entry["package"].removeprefix("encoder-")
        if package in ENCODERS:
            quality = entry["quality"]
            rows.append(
                [
                    ENCODERS[package],
                    f"{fastest(entry, MIX)[0]['median']:.0f}",
                    f"{quality['mean_cosine']:.4f}",
                    f"{quality['worst_cosine']:.4f}",
                ]
            )
    return table(["", "sentences/s", "cosine to PyTorch, mean", "worst of 200"], rows)
