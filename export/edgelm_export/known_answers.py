"""Small problems with known answers for operators whose meaning the standard does not fix: what a package ships of each it uses.

A probe is a graph of one such node, set as in the program, over a few numbers. Its input `nothing` is 0, and keeps ONNX Runtime from
folding the graph; its output `error` is the largest difference from the answer that numpy gives, as a share of the largest value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm.known_answers import ERROR, NOTHING
from edgelm_export.graph import CONTRIB, DTYPES, IR_VERSION, OPSET
from edgelm_export.quantize.formats import FORMATS, Format

Array = NDArray[Any]

_PROBED = ("MoE", "QMoE")
_TOKENS, _EXPERTS, _CHOSEN = 5, 3, 2
# The kernels of CUDA refuse experts of other widths than multiples of this (ONNX Runtime 1.31).
_WIDTH = 64
# Places of optional inputs.
_BIASES = {"MoE": (3, 5), "QMoE": (4, 7)}
_ZERO_POINTS, _ROUTER_WEIGHTS = 11, 14

# Float kernels differ in the order of sums; blocks of integers round their input to 8 bits. A wrong meaning is off by half or more.
_TOLERANCES = {"MoE": 1e-4, "QMoE": 0.05}
_ROUNDING = {"float32": 0.0, "float16": 0.01, "bfloat16": 0.1}  # of weights, activations and scores


@dataclass(frozen=True)
class KnownAnswer:
    """A probe: the operator's name, its graph, and the error that is no other meaning."""

    operator: str
    graph: bytes
    tolerance: float


def known_answers(programs: Iterable[ir.Model], dtype: str = "float32") -> list[KnownAnswer]:
    """One probe for each different setting of each operator in the programs, whose activations have `dtype`, in a fixed order."""
    probes = {
        probe.graph: probe
        for program in programs
        for node in program.graph
        if node.domain == CONTRIB and node.op_type in _PROBED
        for probe in [_probe(node, dtype)]
    }
    return [probes[graph] for graph in sorted(probes)]


def _probe(node: ir.Node, dtype: str) -> KnownAnswer:
    attributes = {name: attribute.value for name, attribute in node.attributes.items()} | {"k": _CHOSEN}
    given = [value is not None for value in node.inputs]
    block = attributes.get("block_size", _WIDTH)
    size = max(block, _WIDTH)
    reach = attributes.get("swiglu_limit", 1.0)  # values wide enough to be clamped
    experts = _RandomExperts(np.random.default_rng(0), width=2 * size, inner=size, reach=reach)
    biased = given[_BIASES[node.op_type][0]]
    if node.op_type == "MoE":
        inputs = experts.as_floats(biased=biased)
    else:
        form = _format(
            attributes["expert_weight_bits"], block, asymmetric=len(given) > _ZERO_POINTS and given[_ZERO_POINTS]
        )
        inputs = experts.in_blocks(form, biased=biased, weighed=len(given) > _ROUTER_WEIGHTS)
    answer = experts.answer(attributes, biased=biased)
    graph = _graph(node.op_type, attributes, experts.x, inputs, answer, DTYPES[dtype])
    tolerance = max(_TOLERANCES[node.op_type], _ROUNDING[dtype])
    return KnownAnswer(f"{CONTRIB} {node.op_type}", graph, tolerance)


class _RandomExperts:
    """Weights, tokens and routing of a problem; `answer` is about what the weights last handed out stand for."""

    def __init__(self, rng: np.random.Generator, width: int, inner: int, reach: float) -> None:
        def drawn(*shape: int) -> Array:
            return rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)

        self.x = rng.normal(0, reach, (1, _TOKENS, width)).astype(np.float32)
        self.scores = rng.normal(0, 1, (_TOKENS, _EXPERTS)).astype(np.float32)
        self.weights = self.scores
        self._other_weights = rng.uniform(0.1, 1, (_TOKENS, _EXPERTS)).astype(np.float32)
        self._gate_up, self._down = drawn(_EXPERTS, 2 * inner, width), drawn(_EXPERTS, width, inner)
        self._biases = drawn(_EXPERTS, 2 * inner), drawn(_EXPERTS, width)

    def as_floats(self, *, biased: bool) -> list[Array | None]:
        """Inputs of MoE."""
        gate_up_bias, down_bias = self._biases if biased else (None, None)
        return [self.scores, self._gate_up, gate_up_bias, self._down, down_bias]

    def in_blocks(self, form: Format, *, biased: bool, weighed: bool) -> list[Array | None]:
        """Inputs of QMoE."""
        gate_up_bias, down_bias = self._biases if biased else (None, None)
        gate_up, down = _Blocks.of(self._gate_up, form), _Blocks.of(self._down, form)
        self._gate_up, self._down = gate_up.values, down.values
        self.weights = self._other_weights
        inputs = [self.scores, gate_up.packed, gate_up.scales, gate_up_bias, down.packed, down.scales, down_bias]
        return [*inputs, None, None, None, gate_up.zero_points, down.zero_points, None, self.weights]

    def answer(self, attributes: Mapping[str, Any], *, biased: bool) -> Array:
        """The sum of the chosen experts, [1, tokens, width]."""
        return np.stack([self._token(t, attributes, biased) for t in range(_TOKENS)])[None].astype(np.float32)

    def _token(self, token: int, attributes: Mapping[str, Any], biased: bool) -> Array:
        taken = np.argsort(self.scores[token])[-_CHOSEN:]
        weights = self.weights[token][taken].astype(np.float64)
        if self.weights is self.scores:
            weights = np.exp(weights)
        if attributes["normalize_routing_weights"]:
            weights = weights / weights.sum()
        limit = attributes.get("swiglu_limit", np.inf)
        total = np.zeros(self.x.shape[-1])
        for expert, weight in zip(taken, weights, strict=True):
            both = self._gate_up[expert].astype(np.float64) @ self.x[0, token] + (
                self._biases[0][expert] if biased else 0
            )
            gate, up = np.minimum(both[0::2], limit), np.clip(both[1::2], -limit, limit)
            hidden = gate / (1 + np.exp(-attributes["activation_alpha"] * gate)) * (up + attributes["activation_beta"])
            total += weight * (self._down[expert] @ hidden + (self._biases[1][expert] if biased else 0))
        return total


@dataclass(frozen=True)
class _Blocks:
    """Weights of all experts in a block format, and the values that stands for."""

    packed: Array
    scales: Array
    zero_points: Array | None
    values: Array

    @classmethod
    def of(cls, weights: Array, form: Format) -> _Blocks:
        parts = [form.quantize(rows) for rows in weights]
        zero_points = [part.zero_points for part in parts if part.zero_points is not None]
        return cls(
            np.stack([part.packed.reshape(len(part.packed), -1) for part in parts]),
            np.stack([part.scales for part in parts]).astype(np.float32),
            np.stack(zero_points) if zero_points else None,
            np.stack([form.dequantize(part, weights.shape[-1]) for part in parts]),
        )


def _format(bits: int, block_size: int, *, asymmetric: bool) -> Format:
    return FORMATS[f"int{bits}-b{block_size}{'-asym' if asymmetric else ''}"]


def _graph(
    op_type: str,
    attributes: Mapping[str, Any],
    x: Array,
    inputs: Sequence[Array | None],
    answer: Array,
    dtype: ir.DataType,
) -> bytes:
    """error = max |op(x + nothing, inputs) - answer| / max |answer|, the operator's own floats in `dtype`."""
    initializers: list[ir.Value] = []
    nodes: list[ir.Node] = []

    def constant(name: str, array: Array | None) -> ir.Value | None:
        if array is None:
            return None
        initializers.append(ir.val(name, const_value=ir.tensor(array, name=name)))
        return initializers[-1]

    def op(name: str, *values: ir.Value | None, domain: str = "", **settings: Any) -> ir.Value:
        nodes.append(ir.node(name, list(values), settings or None, domain=domain, name=f"{name}_{len(nodes)}"))
        nodes[-1].outputs[0].name = nodes[-1].name
        return nodes[-1].outputs[0]

    nothing = ir.val(NOTHING, dtype=ir.DataType.FLOAT, shape=[])

    def narrowed(array: Array | None) -> Array | None:
        return array if array is None or array.dtype != np.float32 else array.astype(dtype.numpy())

    fed = op("Cast", op("Add", constant("x", x), nothing), to=dtype)
    given = [constant(f"input_{i + 1}", narrowed(array)) for i, array in enumerate(inputs)]
    while given[-1] is None:
        given.pop()
    found = op("Cast", op(op_type, fed, *given, domain=CONTRIB, **attributes), to=ir.DataType.FLOAT)
    difference = op("Sub", found, constant("answer", answer))
    scale = np.array(1 / np.abs(answer).max(), np.float32)
    error = op("Mul", op("ReduceMax", op("Abs", difference), keepdims=0), constant("scale", scale))
    error.name, error.type, error.shape = ERROR, ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    graph = ir.Graph(
        [nothing], [error], nodes=nodes, initializers=initializers, opset_imports={"": OPSET, CONTRIB: 1}, name="probe"
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="edgelm")
    return ir.to_proto(model).SerializeToString(deterministic=True)
