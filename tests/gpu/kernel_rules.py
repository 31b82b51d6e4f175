"""What CUDA's kernels take, as tables say: types (kernels.txt), attributes and inputs (schemas.txt), and what they refuse beyond that.

A refusal is known by the text that the kernel has for it, in libonnxruntime_providers_cuda.so of the wheel onnxruntime-gpu 1.31.1
(`make cuda` looks it up there), and by the file of ONNX Runtime's source that the text is from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir

HERE = Path(__file__).parent
KERNELS, SCHEMAS = HERE / "kernels.txt", HERE / "schemas.txt"
OPSET = 23  # of edgelm's graphs

Key = tuple[str, str]  # domain and operator


@dataclass(frozen=True)
class Schema:
    """What an operator takes: defaults of attributes by name (None without one), those that are required, names of inputs."""

    attributes: Mapping[str, Any]
    kinds: Mapping[str, str]
    required: frozenset[str]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """A node as its kernel sees it: attributes with defaults filled in, and inputs by name, None where one is left out."""

    attributes: Mapping[str, Any]
    inputs: Mapping[str, ir.Value | None]

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]

    def has(self, name: str) -> bool:
        """Whether an input is there."""
        return self.inputs.get(name) is not None

    def size(self, name: str, axis: int) -> int:
        """The size of an axis of an initializer."""
        value = self.inputs[name]
        while value is not None and value.shape is None and (made := value.producer()) is not None:
            value = made.inputs[0] if made.op_type == "Cast" else None
        size = None if value is None or value.shape is None else value.shape[axis]
        if not isinstance(size, int):
            raise TypeError(f"nobody knows axis {axis} of {name}")
        return size


@dataclass(frozen=True)
class Rule:
    """What a kernel insists on, and what it says otherwise."""

    says: str
    holds: Callable[[Node], bool]


@dataclass(frozen=True)
class Kernel:
    """Rules of an operator, and the file of ONNX Runtime's source that they are from."""

    source: str
    rules: tuple[Rule, ...]


def _power(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


_MOE_BASE = (
    Rule("Unsupported MoE activation type: ", lambda n: n["activation_type"] in _ACTIVATIONS),
    Rule("swiglu_fusion must be 0, 1, or 2, but got ", lambda n: n["swiglu_fusion"] in (0, 1, 2)),
    Rule(
        "swiglu_fusion is only valid when activation_type is 'swiglu'.",
        lambda n: n["swiglu_fusion"] == 0 or n["activation_type"] == "swiglu",
    ),
    Rule("Sparse mixer only supports k=2", lambda n: n["use_sparse_mixer"] == 0 or n["k"] == 2),
)
_ACTIVATIONS = ("relu", "gelu", "silu", "swiglu", "identity")

# Shapes of experts [experts, rows, columns packed]: fc1 has a row for each of the inner size, twice where gates are between.
_TILE = 64  # columns of QMoE's interleaved weights

REFUSALS: Mapping[Key, Kernel] = {
    ("", "Attention"): Kernel(
        "onnxruntime/core/providers/cuda/llm/attention.cc",
        (
            Rule("scale must be greater than 0 if specified", lambda n: n["scale"] is None or n["scale"] > 0),
            Rule(
                "softmax_precision must be a valid TensorProto data type (0, 1, 10, or 16).",
                lambda n: (n["softmax_precision"] or 0) in (0, 1, 10, 16),
            ),
            Rule(
                "present_key/value outputs are required when past_key is provided.",
                lambda n: not n.has("past_key"),
            ),
        ),
    ),
    ("com.microsoft", "GroupQueryAttention"): Kernel(
        "onnxruntime/contrib_ops/cuda/bert/group_query_attention.cc",
        (
            Rule(
                'info.GetAttr("kv_num_heads", &kv_num_heads).IsOK() && kv_num_heads > 0 && num_heads % kv_num_heads == 0',
                lambda n: n["kv_num_heads"] > 0 and n["num_heads"] % n["kv_num_heads"] == 0,
            ),
            Rule(
                "local_window_size must be -1 or greater than 0 (and not exceed INT_MAX).",
                lambda n: n["local_window_size"] == -1 or n["local_window_size"] > 0,
            ),
            Rule(
                "GroupQueryAttention (CUDA): local_window_size must be -1 when causal is 0.",
                lambda n: n["causal"] == 1 or n["local_window_size"] == -1,
            ),
            Rule(
                "GroupQueryAttention (CUDA): sliding_window_cache=1 requires local_window_size > 0.",
                lambda n: n["sliding_window_cache"] == 0 or n["local_window_size"] > 0,
            ),
            Rule(
                "cos_cache and sin_cache must be passed to GroupQueryAttention when do_rotary = 1",
                lambda n: not n["do_rotary"] or (n.has("cos_cache") and n.has("sin_cache")),
            ),
            Rule(
                "attention_bias with smooth softmax or head_sink is not implemented in GroupQueryAttention cuda kernel.",
                lambda n: not n.has("attention_bias") or (not n.has("head_sink") and n["smooth_softmax"] < 1),
            ),
            Rule(
                "attention_bias with quantized KV cache is not implemented in GroupQueryAttention cuda kernel.",
                lambda n: not n.has("attention_bias") or n["k_quant_type"] == n["v_quant_type"] == "NONE",
            ),
            Rule(
                "k_scale must be provided when k_quant_type is not NONE",
                lambda n: n["k_quant_type"] == "NONE" or n.has("k_scale"),
            ),
            Rule(
                "GroupQueryAttention (CUDA): q_norm_weight and k_norm_weight must be provided together.",
                lambda n: n.has("q_norm_weight") == n.has("k_norm_weight"),
            ),
        ),
    ),
    ("com.microsoft", "MultiHeadAttention"): Kernel(
        "onnxruntime/contrib_ops/cuda/bert/multihead_attention.cc",
        (
            Rule(
                'info.GetAttr("num_heads", &num_heads).IsOK() && num_heads > 0',
                lambda n: n["num_heads"] > 0,
            ),
            Rule(
                "Inputs 'past_key', 'past_value', 'present_key' and 'present_value' shall be empty for cross attention",
                lambda n: not n.has("past_key") and not n.has("past_value"),
            ),
        ),
    ),
    ("com.microsoft", "RotaryEmbedding"): Kernel(
        "onnxruntime/contrib_ops/cpu/bert/rotary_embedding_helper.h",
        (
            Rule(
                "num_heads must be provided if rotary_embedding_dim is specified",
                lambda n: not n["rotary_embedding_dim"] or (n["num_heads"] or 0) > 0,
            ),
        ),
    ),
    ("com.microsoft", "MatMulNBits"): Kernel(
        "onnxruntime/contrib_ops/cuda/quantization/matmul_nbits.h, contrib_ops/cpu/quantization/matmul_nbits_helper.h",
        (
            Rule("block_size must be greater than zero", lambda n: n["block_size"] > 0),
            Rule("bits should be 2, 4 or 8, got ", lambda n: n["bits"] in (2, 4, 8)),
            Rule(
                "block_size must be a power of 2, and >= 16. Got ",
                lambda n: n["block_size"] >= 16 and _power(n["block_size"]),
            ),
            # Any other layout would have to be written for one generation of GPUs. accuracy_level is read by the CPU alone.
            Rule(
                "weight_prepacked must be 0 (not prepacked), 1 (SM80 layout), or 2 (SM90 layout), but got ",
                lambda n: n["weight_prepacked"] == 0,
            ),
        ),
    ),
    ("com.microsoft", "GatherBlockQuantized"): Kernel(
        "onnxruntime/contrib_ops/cuda/quantization/gather_block_quantized.cc",
        (
            Rule(
                "block_size must be a power of 2 and not smaller than 16.",
                lambda n: n["block_size"] >= 16 and _power(n["block_size"]),
            ),
            Rule(
                "GatherBlockQuantized CUDA requires quantize_axis to be the last axis.",
                lambda n: n["quantize_axis"] == 1,
            ),
        ),
    ),
    ("com.microsoft", "MoE"): Kernel(
        "onnxruntime/contrib_ops/cuda/moe/moe_base.h, moe.cc",
        (
            *_MOE_BASE,
            Rule("MoE requires 0 < k <= num_experts, got k=", lambda n: 0 < n["k"] <= n.size("fc1_experts_weights", 0)),
            Rule("MoE CUDA kernel requires hidden_size >= ", lambda n: n.size("fc2_experts_weights", 1) >= 16),
            Rule("MoE CUDA kernel requires inter_size >= ", lambda n: n.size("fc2_experts_weights", 2) >= 16),
        ),
    ),
    ("com.microsoft", "QMoE"): Kernel(
        "onnxruntime/contrib_ops/cuda/moe/moe_base.h, moe_quantization.cc",
        (
            *_MOE_BASE,
            Rule("expert_weight_bits must be 2, 4, or 8, but got ", lambda n: n["expert_weight_bits"] in (2, 4, 8)),
            Rule(
                "QMoE weights_prepacked=0 requires PrePack to run, but the int weight buffers were not produced "
                "(is session.disable_prepacking set?).",
                lambda n: n["weights_prepacked"] == 0,
            ),
            Rule(
                "QMoE in CUDA execution provider does not support separate fc3_experts_weights.",
                lambda n: not n.has("fc3_experts_weights"),
            ),
            Rule(
                "QMoE row-wise quantization (block_size <= 0) does not support zero_points.",
                lambda n: not n.has("fc1_zero_points") or n["block_size"] > 0,
            ),
            Rule(
                "QMoE asymmetric zero_points are currently supported only when block_size >= 32.",
                lambda n: not n.has("fc1_zero_points") or n["block_size"] >= 32,
            ),
            Rule(
                "QMoE requires 0 < k <= num_experts, got k=", lambda n: 0 < n["k"] <= n.size("fc1_experts_weights", 0)
            ),
            Rule(
                "QMoE int weight-only quantization requires hidden_size to be a multiple of ",
                lambda n: _columns(n, "fc1_experts_weights") % _TILE == 0,
            ),
            Rule(
                "QMoE int weight-only quantization requires inter_size to be a multiple of ",
                lambda n: _columns(n, "fc2_experts_weights") % _TILE == 0,
            ),
        ),
    ),
}


def _columns(n: Node, name: str) -> int:
    return n.size(name, 2) * 8 // n["expert_weight_bits"]


@cache
def kernels() -> dict[Key, list[frozenset[str]]]:
    """Types that each kernel takes, all constraints together, by domain and operator."""
    found: dict[Key, list[frozenset[str]]] = {}
    for line in _lines(KERNELS):
        domain, op, _, *types = line.split()
        # Scales of a quantized cache are no activations, and edgelm has none.
        pairs = (kind.split("=") for kind in types if not kind.startswith("T_KV_SCALE"))
        taken = frozenset(name for _, names in pairs for name in names.split(","))
        found.setdefault(("" if domain == "ai.onnx" else domain, op), []).append(taken)
    return found


@cache
def schemas() -> dict[Key, Schema]:
    """What each operator takes."""
    found: dict[Key, Schema] = {}
    for line in _lines(SCHEMAS):
        head, _, inputs = line.partition(" |")
        domain, op, *attributes = head.split()
        defaults, kinds, required = dict[str, Any](), dict[str, str](), set[str]()
        for text in attributes:
            name, _, kind = text.partition("=")
            kind, _, default = kind.partition(":")
            if kind.endswith("!"):
                required.add(name)
            kinds[name] = kind.removesuffix("!")
            defaults[name] = {"int": int, "float": float}.get(kinds[name], str)(default) if default else None
        key = ("" if domain == "ai.onnx" else domain, op)
        found[key] = Schema(defaults, kinds, frozenset(required), tuple(inputs.split()))
    return found


def refusals(models: Iterable[ir.Model]) -> list[tuple[str, str]]:
    """Operators of programs that a kernel for CUDA would refuse, each with the reason; operators without a kernel are left out."""
    found: list[tuple[str, str]] = []
    for model in models:
        for node in model.graph:
            key = (node.domain, node.op_type)
            if key in kernels():
                found += [(node.op_type, reason) for reason in _reasons(node, schemas()[key], REFUSALS.get(key))]
    return found


def _reasons(node: ir.Node, schema: Schema, kernel: Kernel | None) -> list[str]:
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    reasons = [f"has no attribute {name}" for name in given if name not in schema.kinds]
    reasons += [f"lacks its attribute {name}" for name in schema.required if name not in given]
    reasons += [
        f"attribute {name} is no {schema.kinds[name]}"
        for name, attribute in node.attributes.items()
        if name in schema.kinds and attribute.type.name.lower() != schema.kinds[name]
    ]
    if len(node.inputs) > len(schema.inputs) and not (schema.inputs and schema.inputs[-1].endswith("...")):
        reasons.append(f"takes {len(schema.inputs)} inputs, not {len(node.inputs)}")
    if reasons or kernel is None:
        return reasons
    seen = Node({**schema.attributes, **given}, dict(zip(schema.inputs, node.inputs, strict=False)))
    return [rule.says for rule in kernel.rules if not rule.holds(seen)]


def _lines(file: Path) -> Iterable[str]:
    return (line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
