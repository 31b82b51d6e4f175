"""OPT (Zhang et al. 2022, arXiv:2205.01068) and Galactica: learned positions, norms before or after each sum, narrower embeddings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs, step_positions
from edgelm_export.blocks.decoder_norms import stated_norm
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.linear import linear
from edgelm_export.blocks.mlp import mlp
from edgelm_export.blocks.positions import learned_positions
from edgelm_export.blocks.residual import residual_layer
from edgelm_export.config import GptConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import name_map, per_layer
from edgelm_export.read_opt_config import read_opt_config

HF = {
    "embed_tokens": "model.decoder.embed_tokens",
    "project_in": "model.decoder.project_in",
    "position_embeddings": "model.decoder.embed_positions",
    "final_norm": "model.decoder.final_layer_norm",
    "project_out": "model.decoder.project_out",
    "lm_head": "lm_head",
} | per_layer(
    "model.decoder.layers.{i}.",
    {
        "attn_norm": "self_attn_layer_norm",
        "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj",
        "v_proj": "self_attn.v_proj",
        "o_proj": "self_attn.out_proj",
        "mlp_norm": "final_layer_norm",
        "up_proj": "fc1",
        "down_proj": "fc2",
    },
)


def decoder(g: GraphBuilder, c: GptConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    step = cache_inputs(g, c)
    ends = replace(c, hidden_size=c.embedding_size)  # as token table and head see the model
    narrow = c.embedding_size != c.hidden_size
    x = decoder_input(g, ends)
    x = linear(g, x, {"project_in": c.hidden_size}, c.embedding_size) if narrow else x
    positions = step_positions(g, step, g.input("input_ids"))
    rows = learned_positions(g, positions, c.max_position_embeddings, c.hidden_size, c.position_offset)
    x = g.op("Add", x, rows)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            x = residual_layer(g, x, c, partial(self_attention, step=step, i=i), mlp)
    x = stated_norm(g, x, "final_norm", c) if c.final_norm else x
    decoder_output(g, linear(g, x, {"project_out": c.embedding_size}, c.hidden_size) if narrow else x, ends)


OPT = Architecture(
    family="opt",
    model_types={"opt": {"tie_word_embeddings": True, "layer_norm_eps": 1e-5, "hidden_act": "relu"}},
    read_config=read_opt_config,
    names={"hf": lambda c: name_map(HF)},
    decoder=decoder,
    prefix="model.",
)
