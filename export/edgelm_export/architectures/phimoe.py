"""Phi-3.5-MoE: layer norms, and experts in pairs of which each counts what it does among those near it."""

from __future__ import annotations

from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.expert_names import gguf_names, hf_names
from edgelm_export.architectures.llama_names import IGNORED
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.moe import mixture_of_experts
from edgelm_export.blocks.norm import layer_norm
from edgelm_export.config import MixtureConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.read_moe_config import read_phimoe_config


def decoder(g: GraphBuilder, c: MixtureConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    step, x = cache_inputs(g, c), decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = layer_norm(g, x, "attn_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, self_attention(g, h, c, step, i))
            h = layer_norm(g, x, "mlp_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, mixture_of_experts(g, h, c, c.moe))
    decoder_output(g, layer_norm(g, x, "final_norm", c.hidden_size, c.norm_eps), c, bias=c.lm_head_bias)


PHIMOE = Architecture(
    family="phimoe",
    model_types={
        "phimoe": {
            "scoring_func": "sparsemixer",
            "num_experts_per_tok": 2,
            "rope_theta": 1000000.0,
            "windows_everywhere": True,
        }
    },
    names={"hf": hf_names, "gguf": gguf_names},
    read_config=read_phimoe_config,
    decoder=decoder,
    prefix="model.",
    ignored=IGNORED,
)
