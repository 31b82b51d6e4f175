"""The static KV cache as a decoder program sees it: its graph inputs, and what all layers of one call share."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgelm import signature
from edgelm.signature import CacheGeometry
from edgelm_export.blocks.rotary import rotary_tables
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder


@dataclass(frozen=True)
class Step:
    """What one call of a decoder shares between its layers: lengths, and rotary tables where its positions are rotary."""

    cache: CacheGeometry
    seqlens_k: ir.Value
    total_sequence_length: ir.Value
    cos: ir.Value | None = None
    sin: ir.Value | None = None


def cache_inputs(g: GraphBuilder, c: DecoderConfig) -> Step:
    """Declares the inputs of a decoder program."""
    cache = c.cache_geometry(g.provider.activation_dtype)
    g.declare(signature.decoder_inputs(cache))
    cos, sin = rotary_tables(g, c, c.rope)
    return Step(cache, g.input(signature.SEQLENS_K), g.input(signature.TOTAL_SEQUENCE_LENGTH), cos, sin)
