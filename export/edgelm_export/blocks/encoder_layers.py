"""The layer loop that BERT and its kin share."""

from __future__ import annotations

import onnx_ir as ir

from edgelm_export.blocks.attention import encoder_attention
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.mlp import mlp
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.config import EncoderConfig
from edgelm_export.graph import GraphBuilder


def post_norm_layers(
    g: GraphBuilder, x: ir.Value, c: EncoderConfig, tokens: Tokens, bias: ir.Value | None = None
) -> ir.Value:
    """Layers that norm after each residual sum; `bias` is added to the attention scores of all of them."""
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            x = post_norm_layer(g, x, encoder_attention(g, x, c, tokens, bias), c)
    return x


def post_norm_layer(g: GraphBuilder, x: ir.Value, attended: ir.Value, c: EncoderConfig) -> ir.Value:
    """What follows a layer's attention: norm of the sum, MLP, norm of the sum."""
    x = layer_norm(g, g.op("Add", x, attended), "attn_norm", c.hidden_size, c.layer_norm_eps)
    return layer_norm(g, g.op("Add", x, mlp(g, x, c)), "mlp_norm", c.hidden_size, c.layer_norm_eps)
