"""The fused operators of ONNX Runtime for mixtures of experts (domain com.microsoft), each behind one function.

Both compute the sum of the chosen experts, down(swiglu(gate_up(x))), and take gate and up as one weight with alternating rows:

    gate_up [experts, 2 * inner, width]   row 2j = gate row j, row 2j+1 = up row j
    down    [experts, width, inner]

MoE takes the weights as floats, QMoE in blocks of integers along the last axis, packed as MatMulNBits has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.kernels import QuantizedWeight
from edgelm_export.blocks.precision import as_activation
from edgelm_export.blocks.routing import LOWEST, Routing, chosen
from edgelm_export.config import MoeConfig
from edgelm_export.graph import CONTRIB, GraphBuilder

_SMALLEST = float(np.finfo(np.float32).tiny)  # its logarithm is finite


@dataclass(frozen=True)
class Experts:
    """The weights of all experts of a layer: float values or blocks, the same for both; biases where there are any."""

    gate_up: ir.Value | QuantizedWeight
    down: ir.Value | QuantizedWeight
    gate_up_bias: ir.Value | None = None
    down_bias: ir.Value | None = None


def expert_sum(g: GraphBuilder, x: ir.Value, routing: Routing, experts: Experts, m: MoeConfig) -> ir.Value:
    """The chosen experts' outputs times their weights: [batch, sequence, width] -> the same."""
    if isinstance(experts.gate_up, QuantizedWeight):
        return _quantized(g, x, routing, experts, m)
    return _float(g, x, routing, experts, m)


def _float(g: GraphBuilder, x: ir.Value, routing: Routing, experts: Experts, m: MoeConfig) -> ir.Value:
    """MoE weighs with the softmax of the logits it chooses by. The logarithms of weights, as logits, make that weight / sum."""
    taken, lowest = chosen(g, routing), _constant(g, LOWEST)
    logs = g.op("Log", g.op("Max", routing.weights, _constant(g, _SMALLEST)))
    logits = _by_token(g, as_activation(g, g.op("Where", taken, logs, lowest), ir.DataType.FLOAT), m)
    inputs = [x, logits, experts.gate_up, experts.gate_up_bias, experts.down, experts.down_bias]
    while inputs[-1] is None:
        inputs.pop()
    y = g.op("MoE", *inputs, domain=CONTRIB, normalize_routing_weights=1, **_attributes(routing, m))
    if routing.normalized:
        return y
    total = g.op(
        "ReduceSum",
        g.op("Where", taken, routing.weights, _constant(g, 0)),
        g.constant(np.array([-1], np.int64)),
        keepdims=1,
    )
    return g.op("Mul", y, as_activation(g, total, ir.DataType.FLOAT))


def _quantized(g: GraphBuilder, x: ir.Value, routing: Routing, experts: Experts, m: MoeConfig) -> ir.Value:
    """QMoE chooses by one input and weighs with another, `router_weights`.

    Without the second it weighs with the softmax over the chosen logits, whatever normalize_routing_weights says (ONNX Runtime
    1.31, CPU). weights_prepacked=0: the default means a layout of the CUDA kernels.
    """
    gate_up, down = experts.gate_up, experts.down
    if not isinstance(gate_up, QuantizedWeight) or not isinstance(down, QuantizedWeight):
        raise TypeError("all weights of experts come in blocks, or none")
    scores, weights = (
        _by_token(g, as_activation(g, value, ir.DataType.FLOAT), m) for value in (routing.scores, routing.weights)
    )
    inputs = [x, scores, gate_up.packed, gate_up.scales, experts.gate_up_bias]
    inputs += [down.packed, down.scales, experts.down_bias, None, None, None]
    inputs += [gate_up.zero_points, down.zero_points, None, weights]
    return g.op(
        "QMoE",
        *inputs,
        domain=CONTRIB,
        normalize_routing_weights=int(routing.normalized),
        expert_weight_bits=gate_up.format.bits,
        block_size=gate_up.format.block_size,
        accuracy_level=g.provider.accuracy_level,
        weights_prepacked=0,
        **_attributes(routing, m),
    )


def _attributes(routing: Routing, m: MoeConfig) -> dict[str, Any]:
    limit = {} if m.swiglu_limit is None else {"swiglu_limit": m.swiglu_limit}
    return {
        "k": routing.k,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": m.swiglu_alpha,
        "activation_beta": m.swiglu_beta,
        **limit,
    }


def _by_token(g: GraphBuilder, values: ir.Value, m: MoeConfig) -> ir.Value:
    """[batch, sequence, experts] -> [batch * sequence, experts]."""
    return g.op("Reshape", values, g.constant(np.array([-1, m.num_experts], np.int64)))


def _constant(g: GraphBuilder, value: float) -> ir.Value:
    return g.constant(np.array(value, np.float32))
