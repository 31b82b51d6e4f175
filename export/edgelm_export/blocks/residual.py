"""One layer of a decoder: how attention and MLP add to the hidden states, and where the norms stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from edgelm_export.blocks.decoder_norms import stated_norm
from edgelm_export.blocks.mlp import FeedForward
from edgelm_export.config import GptConfig
from edgelm_export.graph import GraphBuilder

Layer = Callable[[GraphBuilder, ir.Value, GptConfig, FeedForward, FeedForward], ir.Value]


def residual_layer(
    g: GraphBuilder, x: ir.Value, c: GptConfig, attend: FeedForward, feed_forward: FeedForward
) -> ir.Value:
    """One layer in the arrangement that `c.layer` names: [batch, sequence, hidden_size] -> the same."""
    return LAYERS[c.layer](g, x, c, attend, feed_forward)


def _pre_norm(g: GraphBuilder, x: ir.Value, c: GptConfig, attend: FeedForward, feed_forward: FeedForward) -> ir.Value:
    x = g.op("Add", x, attend(g, stated_norm(g, x, "attn_norm", c), c))
    return g.op("Add", x, feed_forward(g, stated_norm(g, x, "mlp_norm", c), c))


def _post_norm(g: GraphBuilder, x: ir.Value, c: GptConfig, attend: FeedForward, feed_forward: FeedForward) -> ir.Value:
    x = stated_norm(g, g.op("Add", x, attend(g, x, c)), "attn_norm", c)
    return stated_norm(g, g.op("Add", x, feed_forward(g, x, c)), "mlp_norm", c)


def _normed_sum(g: GraphBuilder, x: ir.Value, c: GptConfig, attend: FeedForward, feed_forward: FeedForward) -> ir.Value:
    """The norm's result, not its input, is what attention and MLP add to."""
    h = stated_norm(g, x, "attn_norm", c)
    h = stated_norm(g, g.op("Add", h, attend(g, h, c)), "mlp_norm", c)
    return g.op("Add", h, feed_forward(g, h, c))


def _parallel(g: GraphBuilder, x: ir.Value, c: GptConfig, attend: FeedForward, feed_forward: FeedForward) -> ir.Value:
    """Attention and MLP read the same hidden states, each through its own norm."""
    attended = attend(g, stated_norm(g, x, "attn_norm", c), c)
    return _sum(g, x, attended, feed_forward(g, stated_norm(g, x, "mlp_norm", c), c))


def _one_norm(g: GraphBuilder, x: ir.Value, c: GptConfig, attend: FeedForward, feed_forward: FeedForward) -> ir.Value:
    """Attention and MLP read the same hidden states through one norm."""
    h = stated_norm(g, x, "attn_norm", c)
    return _sum(g, x, attend(g, h, c), feed_forward(g, h, c))


LAYERS: Mapping[str, Layer] = {
    "pre-norm": _pre_norm,
    "post-norm": _post_norm,
    "normed-sum": _normed_sum,
    "parallel": _parallel,
    "parallel-one-norm": _one_norm,
}


def _sum(g: GraphBuilder, x: ir.Value, attended: ir.Value, fed: ir.Value) -> ir.Value:
    return g.op("Add", g.op("Add", attended, fed), x)
