"""Queries that grow with their positions, so that attention stays sharp in long contexts (Llama 4, Ministral 3)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.attention import HeadNorms
from edgelm_export.blocks.cache import Step, step_positions
from edgelm_export.blocks.precision import as_activation
from edgelm_export.config import DecoderConfig, Ministral3Config
from edgelm_export.graph import GraphBuilder


def growing_queries(g: GraphBuilder, step: Step, c: Ministral3Config) -> HeadNorms | None:
    """Multiplies queries by 1 + beta * log(1 + floor(position / context of training)); nothing where no position is beyond it."""
    if not c.llama_4_scaling_beta or c.context_length <= c.original_max_position_embeddings:
        return None
    whole = g.op(
        "Div",
        step_positions(g, step, g.input(signature.INPUT_IDS)),
        g.constant(np.array(c.original_max_position_embeddings, np.int64)),
    )
    one = g.constant(np.array(1, np.float32))
    growth = g.op("Log", g.op("Add", g.op("Cast", whole, to=ir.DataType.FLOAT), one))
    factor = g.op("Add", g.op("Mul", growth, g.constant(np.array(c.llama_4_scaling_beta, np.float32))), one)
    factor = as_activation(g, g.op("Unsqueeze", factor, g.constant(np.array([-1], np.int64))), ir.DataType.FLOAT)

    def grown(g: GraphBuilder, q: ir.Value, k: ir.Value, c: DecoderConfig) -> tuple[ir.Value, ir.Value]:
        return g.op("Mul", q, factor), k  # [batch, sequence, 1]; what turns may be scaled before or behind

    return grown
