"""Known answers of mixtures of experts behind one operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm_export.known_answers.problems import Array, Case, Problem, Setting
from edgelm_export.quantize.formats import FORMATS, Format

_TOKENS, _EXPERTS, _CHOSEN = 5, 3, 2
# The kernels of CUDA, whose activations have 16 bits, refuse experts of other widths than multiples of this (ONNX Runtime 1.31).
_WIDTH = 64
# Places of optional inputs.
_BIASES = {"MoE": 3, "QMoE": 4}
_ZERO_POINTS, _ROUTER_WEIGHTS = 11, 14

# Blocks of integers round their input to 8 bits. A wrong meaning is off by half or more.
_TOLERANCES = {"MoE": 1e-4, "QMoE": 0.05}


def experts(setting: Setting) -> Problem:
    """A few tokens routed to two of three experts."""
    attributes = {**setting.attributes, "k": _CHOSEN}
    block = attributes.get("block_size", 8)
    inner = block if setting.dtype == "float32" else max(block, _WIDTH)
    reach = attributes.get("swiglu_limit", 1.0)  # values wide enough to be clamped
    experts = _RandomExperts(np.random.default_rng(0), width=2 * inner, inner=inner, reach=reach)
    biased = setting.has(_BIASES[setting.op_type])
    if setting.op_type == "MoE":
        inputs = experts.as_floats(biased=biased)
    else:
        form = _format(attributes["expert_weight_bits"], block, asymmetric=setting.has(_ZERO_POINTS))
        inputs = experts.in_blocks(form, biased=biased, weighed=setting.has(_ROUTER_WEIGHTS))
    case = Case([experts.x, *inputs], experts.answer(attributes, biased=biased))
    return Problem(attributes, [case], _TOLERANCES[setting.op_type])


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
