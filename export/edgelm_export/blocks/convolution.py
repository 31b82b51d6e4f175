"""Convolution over the tokens of a text."""

from __future__ import annotations

import onnx_ir as ir

from edgelm_export.blocks.activations import activation
from edgelm_export.blocks.encoder import Tokens, token_weights
from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import DebertaConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.quantize.formats import find_format
from edgelm_export.quantize.kept import stored_format


def token_convolution(g: GraphBuilder, x: ir.Value, c: DebertaConfig, tokens: Tokens) -> ir.Value:
    """Each token with its neighbours, then the activation: [batch, sequence, hidden_size] -> the same. Padding counts as zero."""
    size, width = c.hidden_size, c.conv_kernel_size
    weight = g.weight("conv.weight", (size, size // c.conv_groups, width))
    bias = g.weight("conv.bias", (size,))
    form = stored_format(g.recipe.format_for(g.name("conv")), weight)
    form = form if form.bits >= 16 else find_format("float16")  # no kernel takes fewer bits
    kernel = g.stored(
        weight.name, form.dtype, weight.shape, lambda: (a.astype(form.dtype) for a in weight.chunks(form.flaw))
    )
    added = g.stored(bias.name, "float32", (size,), lambda: [bias.read()])
    channels = g.op("Transpose", g.op("Mul", x, token_weights(g, tokens)), perm=[0, 2, 1])
    padding = {"pads": [width // 2] * 2, "kernel_shape": [width], "group": c.conv_groups}
    y = g.op("Conv", channels, as_activation(g, kernel), as_activation(g, added), **padding)
    return activation(g, g.op("Transpose", y, perm=[0, 2, 1]), c.conv_act)
