"""Cohere's Command R and R7B: attention and MLP side by side behind one layer norm, neighbouring dimensions turning together."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edgelm_export.architectures.llama import QWEN2
from edgelm_export.architectures.llama_kin import DECODER
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.mlp import gated_mlp
from edgelm_export.blocks.norm import head_layer_norms, layer_norm
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.read_cohere_config import read_cohere2_config, read_cohere_config

# What transformers assumes where a config is silent. Of rope_theta its releases do not assume the same.
FACTS = {
    "hidden_act": "silu",
    "interleaved_rotary": True,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "tie_word_embeddings": True,
}


def decoder(g: GraphBuilder, c: DecoderConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    attend = partial(self_attention, step=cache_inputs(g, c), norms=head_layer_norms if c.qk_norm else None)
    x = decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = _norm(g, x, "attn_norm", c)
            x = g.op("Add", g.op("Add", x, attend(g, h, c, i=i)), gated_mlp(g, h, c))
    decoder_output(g, _norm(g, x, "final_norm", c), c)


def _norm(g: GraphBuilder, x: Value, name: str, c: DecoderConfig) -> Value:
    return layer_norm(g, x, name, c.hidden_size, c.norm_eps, bias=False)


COHERE = replace(
    DECODER,
    family="cohere",
    model_types={"cohere": FACTS | {"use_sliding_window": False}},
    names=QWEN2.names,
    read_config=read_cohere_config,
    decoder=decoder,
)

COHERE2 = replace(
    COHERE,
    family="cohere2",
    model_types={
        "cohere2": FACTS | {"rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_pattern": 4},
    },
    read_config=read_cohere2_config,
)
