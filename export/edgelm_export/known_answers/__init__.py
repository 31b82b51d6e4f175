"""Small problems with known answers for the fused operators of a program: what a package brings to try an ONNX Runtime with.

All are one graph. Its input `nothing` is 0, and keeps ONNX Runtime from folding it; for each setting of an operator it has an output,
the largest difference from the answer that numpy gives, as a share of the answer's largest value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgelm_export.graph import CONTRIB
from edgelm_export.known_answers import attention, experts, norms, products
from edgelm_export.known_answers.graph import problem_graph
from edgelm_export.known_answers.problems import Problem, Setting

__all__ = ["PROBED", "KnownAnswers", "known_answers"]

# What a program may use that is more than a few sums: by domain and operator, the problem that a setting is tried with.
PROBED: Mapping[tuple[str, str], Callable[[Setting], Problem]] = {
    ("", "Attention"): attention.standard_attention,
    ("", "LayerNormalization"): norms.layer_normalization,
    ("", "RMSNormalization"): norms.rms_normalization,
    (CONTRIB, "DynamicQuantizeMatMul"): products.dynamic_quantize_matmul,
    (CONTRIB, "FusedMatMul"): products.fused_matmul,
    (CONTRIB, "GatherBlockQuantized"): products.gather_block_quantized,
    (CONTRIB, "GroupQueryAttention"): attention.group_query_attention,
    (CONTRIB, "MatMulIntegerToFloat"): products.matmul_integer_to_float,
    (CONTRIB, "MatMulNBits"): products.matmul_nbits,
    (CONTRIB, "MoE"): experts.experts,
    (CONTRIB, "MultiHeadAttention"): attention.multi_head_attention,
    (CONTRIB, "QMoE"): experts.experts,
    (CONTRIB, "RotaryEmbedding"): attention.rotary_embedding,
}

_ROUNDING = {"float32": 0.0, "float16": 0.01, "bfloat16": 0.1}  # of weights, activations and scores


@dataclass(frozen=True)
class KnownAnswers:
    """The graph, and for each of its outputs what the manifest says: {"operator", "tolerance"}."""

    graph: bytes
    probes: Mapping[str, Mapping[str, Any]]


def known_answers(programs: Iterable[ir.Model], dtype: str = "float32") -> KnownAnswers:
    """One problem for each different setting of each operator in the programs, whose activations have `dtype`, in a fixed order."""
    settings = {
        setting.key: setting
        for program in programs
        for node in program.graph.all_nodes()
        if (node.domain, node.op_type) in PROBED
        for setting in [Setting.of(node, dtype)]
    }
    problems: dict[str, tuple[Setting, Problem]] = {}  # settings that differ in sizes alone have the same problem
    for key in sorted(settings):
        setting = settings[key]
        problem = PROBED[setting.domain, setting.op_type](setting)
        attributes = sorted(problem.attributes.items())
        shapes = [[None if array is None else array.shape for array in case.inputs] for case in problem.cases]
        problems.setdefault(repr((setting.domain, setting.op_type, attributes, shapes)), (setting, problem))
    number: Counter[str] = Counter()
    named: dict[str, tuple[Setting, Problem]] = {}
    for setting, problem in problems.values():
        named[f"{setting.op_type}.{number[setting.op_type]}"] = (setting, problem)
        number[setting.op_type] += 1
    probes = {
        name: {
            "operator": f"{setting.domain} {setting.op_type}".strip(),
            "tolerance": max(problem.tolerance, _ROUNDING[dtype]),
        }
        for name, (setting, problem) in named.items()
    }
    return KnownAnswers(problem_graph(named, dtype), probes)
