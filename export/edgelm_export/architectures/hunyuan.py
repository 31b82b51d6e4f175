"""Tencent's HunYuan (dense, version 1): Llama's layers with norms of queries and keys behind the turn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edgelm_export.architectures.llama import QWEN2, layers
from edgelm_export.architectures.llama_kin import DECODER, PLAIN
from edgelm_export.architectures.llama_names import hf_names
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.norm import head_norms
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap
from edgelm_export.read_llama_kin_config import read_hunyuan_config


def hunyuan_names(c: DecoderConfig) -> NameMap:
    """Two names differ."""
    return hf_names(c, {"q_norm": "self_attn.query_layernorm", "k_norm": "self_attn.key_layernorm"})


def decoder(g: GraphBuilder, c: DecoderConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    attend = partial(self_attention, step=cache_inputs(g, c, turned_by_kernel=False), turned_norms=head_norms)
    decoder_output(g, layers(g, decoder_input(g, c), c, attend), c)


HUNYUAN = replace(
    DECODER,
    family="hunyuan",
    model_types={"hunyuan_v1_dense": PLAIN},
    names={"hf": hunyuan_names, "gguf": QWEN2.names["gguf"]},
    read_config=read_hunyuan_config,
    decoder=decoder,
)
