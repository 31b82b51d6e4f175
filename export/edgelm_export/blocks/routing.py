"""Routing: from a token's hidden state to scores that choose its experts and weights that say what each of them counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.linear import linear
from edgelm_export.blocks.precision import as_float
from edgelm_export.config import MoeConfig
from edgelm_export.graph import GraphBuilder

# Stands for minus infinity where something must not be chosen; finite, in float16 too, so that no sum of it becomes NaN.
LOWEST = -65504.0


@dataclass(frozen=True)
class Routing:
    """The experts of the `k` highest `scores` are taken; each counts its weight. Both float32 [batch, sequence, experts]."""

    scores: ir.Value
    weights: ir.Value
    k: int
    normalized: bool  # weights are divided by the sum of those taken


def route(g: GraphBuilder, x: ir.Value, hidden_size: int, m: MoeConfig) -> Routing:
    """Scores and weights of all experts for hidden states [batch, sequence, hidden_size]."""
    # In float32 from here on: 16 bits make ties of scores that differ.
    logits = as_float(g, linear(g, x, {"router": m.num_experts}, hidden_size, bias=m.router_bias))
    if m.scoring_func == "sparsemixer":
        return Routing(logits, _sparse_mixer(g, logits, m.router_jitter_noise), m.num_experts_per_tok, normalized=False)
    weights = g.op("Sigmoid", logits) if m.scoring_func == "sigmoid" else g.op("Softmax", logits, axis=-1)
    scores = weights
    if m.score_correction:
        bias = g.weight("router_correction.bias", (m.num_experts,))
        stored = g.stored(bias.name, "float32", bias.shape, lambda: [bias.read()])
        scores = g.op("Add", scores, stored)
    if m.topk_group < m.n_group:
        scores = _within_best_groups(g, scores, m)
    return Routing(scores, weights, m.num_experts_per_tok, m.norm_topk_prob)


def chosen(g: GraphBuilder, routing: Routing) -> ir.Value:
    """Which experts are taken: bool [batch, sequence, experts]."""
    return _among_best(g, routing.scores, routing.k)


def _within_best_groups(g: GraphBuilder, scores: ir.Value, m: MoeConfig) -> ir.Value:
    """The scores, lowest outside the best groups (DeepSeek-AI 2024, arXiv:2405.04434, section 2.2.2)."""
    groups = g.op("Reshape", scores, _shape(g, 0, 0, m.n_group, m.num_experts // m.n_group))
    counted = 1 if m.group_score == "max" else 2
    best, _ = g.op("TopK", groups, _shape(g, counted), axis=-1, outputs=2)
    worth = g.op("ReduceSum", best, _shape(g, -1), keepdims=0)  # [batch, sequence, groups]
    kept = g.op("Unsqueeze", _among_best(g, worth, m.topk_group), _shape(g, -1))
    return g.op("Reshape", g.op("Where", kept, groups, _number(g, LOWEST)), _shape(g, 0, 0, m.num_experts))


def _sparse_mixer(g: GraphBuilder, logits: ir.Value, jitter: float) -> ir.Value:
    """Weights of the two best experts, each its softmax among those near it (Liu et al. 2024, arXiv:2409.12136, section 2)."""
    best = g.op("ReduceMax", logits, _shape(g, -1), keepdims=1)
    is_best = g.op("Equal", logits, best)
    others = g.op("Where", is_best, _number(g, LOWEST), logits)
    second = g.op("ReduceMax", others, _shape(g, -1), keepdims=1)
    first_weight = _softmax_of_near(g, logits, logits, best, jitter)
    second_weight = _softmax_of_near(g, others, logits, second, jitter)
    return g.op("Where", is_best, first_weight, second_weight)


def _softmax_of_near(g: GraphBuilder, values: ir.Value, logits: ir.Value, best: ir.Value, jitter: float) -> ir.Value:
    """Softmax over the values whose logit is at most 2 * jitter below the best, as a share of its own size."""
    size = g.op("Max", g.op("Abs", logits), best)
    far = g.op("Greater", g.op("Div", g.op("Sub", best, logits), size), _number(g, 2 * jitter))
    return g.op("Softmax", g.op("Where", far, _number(g, LOWEST), values), axis=-1)


def _among_best(g: GraphBuilder, values: ir.Value, k: int) -> ir.Value:
    best, _ = g.op("TopK", values, _shape(g, k), axis=-1, outputs=2)
    return g.op("GreaterOrEqual", values, g.op("ReduceMin", best, _shape(g, -1), keepdims=1))


def _shape(g: GraphBuilder, *sizes: int) -> ir.Value:
    return g.constant(np.array(sizes, np.int64))


def _number(g: GraphBuilder, value: float) -> ir.Value:
    return g.constant(np.array(value, np.float32))
