"""Mixtures of experts in plain numpy, one token and one expert at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgelm_export.config import MoeConfig

Array = NDArray[np.floating]
Tensors = Mapping[str, NDArray[np.float32]]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def experts_of(logits: Array, m: MoeConfig, correction: Array) -> dict[int, float]:
    """The experts of one token with their weights."""
    k = m.num_experts_per_tok
    if m.scoring_func == "sparsemixer":
        first = int(logits.argmax())
        rest = logits.copy()
        rest[first] = -np.inf
        second = int(rest.argmax())
        return {
            first: _among_near(logits, logits, first, m.router_jitter_noise),
            second: _among_near(rest, logits, second, m.router_jitter_noise),
        }
    weights = sigmoid(logits) if m.scoring_func == "sigmoid" else softmax(logits)
    scores = weights + correction
    if m.topk_group < m.n_group:
        groups = scores.reshape(m.n_group, -1)
        counted = {"max": 1, "top2": 2}[m.group_score]
        worth = np.sort(groups, axis=1)[:, -counted:].sum(1)
        for worst in np.argsort(worth)[: m.n_group - m.topk_group]:
            groups[worst] = -np.inf
    taken = np.argsort(scores)[-k:]
    total = weights[taken].sum() if m.norm_topk_prob else 1.0
    return {int(e): float(weights[e] / total) for e in taken}


def mixture(x: Array, tensors: Tensors, m: MoeConfig) -> Array:
    """One layer over tokens [n, hidden_size], from tensors by canonical name."""
    return np.stack([_token(row, tensors, m) for row in x])


def _token(x: Array, tensors: Tensors, m: MoeConfig) -> Array:
    logits = tensors["router.weight"] @ x + tensors.get("router.bias", np.zeros(m.num_experts))
    correction = tensors.get("router_correction.bias", np.zeros(m.num_experts))
    y = np.zeros_like(x)
    for e, weight in experts_of(logits, m, correction).items():
        y += weight * _expert(x, tensors, f"experts.{e}", m)
    y *= m.routed_scaling_factor
    if m.shared_intermediate_size:
        gate = sigmoid(tensors["shared_gate.weight"] @ x) if m.shared_gate else 1.0
        plain = MoeConfig(num_experts=1, num_experts_per_tok=1, moe_intermediate_size=1)
        y += gate * _expert(x, tensors, "shared", plain)
    return y


def _expert(x: Array, tensors: Tensors, name: str, m: MoeConfig) -> Array:
    def project(leaf: str, values: Array) -> Array:
        return tensors[f"{name}.{leaf}.weight"] @ values + tensors.get(f"{name}.{leaf}.bias", np.zeros(1))

    limit = np.inf if m.swiglu_limit is None else m.swiglu_limit
    gate, up = np.minimum(project("gate_proj", x), limit), np.clip(project("up_proj", x), -limit, limit)
    return project("down_proj", gate * sigmoid(m.swiglu_alpha * gate) * (up + m.swiglu_beta))


def _among_near(values: Array, logits: Array, best: int, jitter: float) -> float:
    far = (logits[best] - logits) / np.maximum(np.abs(logits), logits[best]) > 2 * jitter
    return float(softmax(np.where(far, -np.inf, values))[best])
