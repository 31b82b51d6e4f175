"""The settings that `edgelm doctor` tries without a package: those that packages use most.

`python -m edgelm_export.known_answers.shipped` writes their problems into the runtime; a test fails when they are stale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

import edgelm
from edgelm.doctor import SHIPPED
from edgelm.manifest import PROBES
from edgelm_export.graph import CONTRIB, IR_VERSION, OPSET
from edgelm_export.known_answers import KnownAnswers, known_answers
from edgelm_export.known_answers.problems import Setting


def _contrib(op_type: str, given: str, outputs: int = 1, **attributes: Any) -> Setting:
    return _setting(op_type, CONTRIB, given, outputs, attributes)


def _standard(op_type: str, given: str, **attributes: Any) -> Setting:
    return _setting(op_type, "", given, 1, attributes)


def _setting(op_type: str, domain: str, given: str, outputs: int, attributes: Mapping[str, Any]) -> Setting:
    """`given` has an x for each input that is there, and a dot for each that is left out."""
    return Setting(op_type, domain, dict(sorted(attributes.items())), tuple(sign == "x" for sign in given), outputs)


_GQA: Mapping[str, Any] = {"num_heads": 6, "kv_num_heads": 2, "causal": 1, "local_window_size": -1}
_BLOCKS: Mapping[str, Any] = {"K": 4096, "N": 999, "bits": 4, "block_size": 32, "accuracy_level": 4}
_TABLE: Mapping[str, Any] = {"bits": 4, "block_size": 32, "gather_axis": 0, "quantize_axis": 1}
_EXPERTS: Mapping[str, Any] = {
    "k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0,
    "normalize_routing_weights": 1,
}  # fmt: skip
_QUANTIZED_EXPERTS = {**_EXPERTS, "accuracy_level": 4, "weights_prepacked": 0, "expert_weight_bits": 4}

SETTINGS: Mapping[str, Setting] = {
    "blocks": _contrib("MatMulNBits", "xxx", **{**_BLOCKS, "accuracy_level": 0}),
    "rounded blocks": _contrib("MatMulNBits", "xxx", **_BLOCKS),
    "rounded blocks with zero points and bias": _contrib("MatMulNBits", "xxxx.x", **_BLOCKS),
    "bytes in blocks": _contrib("MatMulNBits", "xxx", **{**_BLOCKS, "bits": 8, "block_size": 128}),
    "rows of a table": _contrib("GatherBlockQuantized", "xxxx", **_TABLE),
    "rounded input": _contrib("DynamicQuantizeMatMul", "xxx.x"),
    "integers": _contrib("MatMulIntegerToFloat", "xxxxx"),
    "floats": _contrib("FusedMatMul", "xx", transB=1, alpha=0.5),
    "floats turned": _contrib("FusedMatMul", "xx", transA=1),
    "cache": _contrib("GroupQueryAttention", "xxxxxxx", 3, **_GQA),
    "rotary": _contrib("GroupQueryAttention", "x..xxxxxx", 3, **_GQA, do_rotary=1, rotary_interleaved=0),
    "interleaved": _contrib("GroupQueryAttention", "x..xxxxxx", 3, **_GQA, do_rotary=1, rotary_interleaved=1),
    "window": _contrib("GroupQueryAttention", "x..xxxx", 3, **{**_GQA, "local_window_size": 512}),
    "cache of integers": _contrib(
        "GroupQueryAttention",
        "x..xxxxxx...xx",
        3,
        **_GQA,
        do_rotary=1,
        rotary_interleaved=0,
        k_quant_type="PER_CHANNEL",
        v_quant_type="PER_CHANNEL",
        kv_cache_bit_width=8,
    ),
    "soft cap": _contrib("GroupQueryAttention", "x..xxxx", 3, **_GQA, softcap=1.0),
    "bias and sinks": _contrib("GroupQueryAttention", "x..xxxx...xx", 3, **_GQA),
    "both ways": _contrib("GroupQueryAttention", "xxx..xx", 3, **{**_GQA, "causal": 0}),
    "latent cache": _contrib("GroupQueryAttention", "xxxxxxx", 1, num_heads=8, kv_num_heads=1, scale=0.2),
    "cross": _contrib("MultiHeadAttention", "xxx.x", num_heads=8),
    "whole text": _standard("Attention", "xxxx", q_num_heads=6, kv_num_heads=2),
    "positions": _contrib("RotaryEmbedding", "xxxx", interleaved=0, num_heads=9),
    "half of the positions": _contrib("RotaryEmbedding", "xxxx", interleaved=1, num_heads=9, rotary_embedding_dim=64),
    "root mean square": _standard("RMSNormalization", "xx", axis=-1, epsilon=0.1),
    "layer": _standard("LayerNormalization", "xxx", axis=-1, epsilon=0.1),
    "experts": _contrib("MoE", "xxx.x", **_EXPERTS),
    "experts in blocks": _contrib("QMoE", "xxxx.xx.......x", **_QUANTIZED_EXPERTS, block_size=32),
}


def program_of(setting: Setting) -> ir.Model:
    """A program of one node in that setting."""
    inputs = [ir.val(f"x{i}") if given else None for i, given in enumerate(setting.given)]
    node = ir.node(
        setting.op_type, inputs, dict(setting.attributes), domain=setting.domain, num_outputs=setting.outputs
    )
    graph = ir.Graph([], node.outputs, nodes=[node], opset_imports={"": OPSET, CONTRIB: 1})
    return ir.Model(graph, ir_version=IR_VERSION)


def shipped_answers() -> KnownAnswers:
    """What lies in the runtime's data folder."""
    return known_answers(map(program_of, SETTINGS.values()))


def as_json(answers: KnownAnswers) -> str:
    """The list of the probes beside their graph."""
    return json.dumps(answers.probes, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    folder, made = Path(edgelm.__file__).parent / SHIPPED, shipped_answers()
    (folder / PROBES).write_bytes(made.graph)
    (folder / "probes.json").write_text(as_json(made), encoding="utf-8", newline="\n")
