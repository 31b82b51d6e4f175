"""Ministral 3: Llama's layers with queries that grow with their positions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edgelm_export.architectures.llama import layers
from edgelm_export.architectures.llama_kin import DECODER, WINDOWED
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.growing_queries import growing_queries
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.config import Ministral3Config
from edgelm_export.graph import GraphBuilder
from edgelm_export.read_llama_kin_config import read_ministral3_config


def decoder(g: GraphBuilder, c: Ministral3Config) -> None:
    """Token ids and cache in, logits and cache out."""
    step = cache_inputs(g, c)
    attend = partial(self_attention, step=step, norms=growing_queries(g, step, c))
    decoder_output(g, layers(g, decoder_input(g, c), c, attend), c)


MINISTRAL3 = replace(
    DECODER,
    family="ministral3",
    model_types={"ministral3": WINDOWED | {"rope_theta": 1000000.0, "head_dim": 128}},
    read_config=read_ministral3_config,
    decoder=decoder,
)
