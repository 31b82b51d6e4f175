"""Attention of a decoder to its source: the encoder computes keys and values once, every decoder step reads them in place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.cache import Step, cache_geometry
from edgelm_export.blocks.kernels import cross_attention_kernel
from edgelm_export.blocks.linear import linear, split
from edgelm_export.config import ModelConfig, Seq2SeqConfig
from edgelm_export.graph import GraphBuilder


@dataclass(frozen=True)
class Source:
    """What a decoder program knows of its sources: which of their positions are tokens."""

    mask: ir.Value  # int64 [sources, source]


def cross_outputs(g: GraphBuilder, x: ir.Value, c: Seq2SeqConfig) -> None:
    """Keys and values of the encoder's output [sources, source, hidden_size] for every decoder layer, as graph outputs."""
    d, cache = c.decoder, cache_geometry(c, g.provider)
    heads = g.constant(np.array([0, 0, d.num_key_value_heads, d.head_dim], np.int64))
    sizes = {"k_proj": d.key_value_size, "v_proj": d.key_value_size}
    ports = {port.name: port for port in signature.cross_ports(cache)}
    for i in range(d.num_hidden_layers):
        with g.at("decoder", "layers", i, "cross"):
            both = linear(g, x, sizes, c.hidden_size, bias=d.qkv_bias, group="kv_proj")
            for kind, value in zip(signature.KINDS, split(g, both, tuple(sizes.values())), strict=True):
                stacked = g.op("Transpose", g.op("Reshape", value, heads), perm=[0, 2, 1, 3])
                g.output(ports[signature.cross(i, kind)], stacked)


def seq2seq_inputs(g: GraphBuilder, c: Seq2SeqConfig) -> tuple[Step, Source]:
    """Declares the inputs of a decoder program that attends to sources."""
    cache = cache_geometry(c, g.provider)
    g.declare([*signature.decoder_inputs(cache), signature.source_mask_port(), *signature.cross_ports(cache)])
    step = Step(cache, g.input(signature.SEQLENS_K), g.input(signature.TOTAL_SEQUENCE_LENGTH))
    return step, Source(g.input(signature.ENCODER_ATTENTION_MASK))


def cross_attention(
    g: GraphBuilder, x: ir.Value, d: ModelConfig, source: Source, i: int, scale: float | None = None
) -> ir.Value:
    """Layer `i` looks at the sources: [rows, sequence, hidden_size] -> the same.

    Rows of one source (its beams) are its queries side by side, so keys and values are there once a source.
    """
    with g.at("cross"):
        query = linear(g, x, {"q_proj": d.query_size}, d.hidden_size, bias=d.qkv_bias)
        sources = g.op("Shape", source.mask, start=0, end=1)
        width = g.constant(np.array([-1, d.query_size], np.int64))
        gathered = g.op("Reshape", query, g.op("Concat", sources, width, axis=0))  # [sources, beams * sequence, ...]
        memory = [g.input(signature.cross(i, kind)) for kind in signature.KINDS]
        attended = cross_attention_kernel(g, gathered, memory, source.mask, d, scale)
        rows = g.op("Reshape", attended, g.op("Shape", query))
        return g.tap(
            "attention", linear(g, rows, {"o_proj": d.hidden_size}, d.query_size, bias=d.attention_output_bias)
        )
