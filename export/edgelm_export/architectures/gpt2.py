"""GPT (Radford et al. 2018), GPT-2 and their kin: learned positions, LayerNorms, plain MLP."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.gguf_names import gguf_fused
from edgelm_export.blocks.attention import self_attention
from edgelm_export.blocks.cache import cache_inputs, step_positions
from edgelm_export.blocks.decoder_norms import stated_norm
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.mlp import mlp
from edgelm_export.blocks.positions import learned_positions
from edgelm_export.blocks.residual import residual_layer
from edgelm_export.config import GptConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap, Source, joined, name_map, per_layer
from edgelm_export.read_gpt_config import read_gpt2_config
from edgelm_export.transforms import groups_apart

ENDS = {
    "embed_tokens": "transformer.wte",
    "position_embeddings": "transformer.wpe",
    "final_norm": "transformer.ln_f",
    "lm_head": "lm_head",
}
FIRST_ENDS = ENDS | {
    "embed_tokens": "transformer.tokens_embed",
    "position_embeddings": "transformer.positions_embed",
}
LAYER = {
    "attn_norm": "ln_1",
    "o_proj": "attn.c_proj",
    "mlp_norm": "ln_2",
    "up_proj": "mlp.c_fc",
    "down_proj": "mlp.c_proj",
}
# OpenAI's own code multiplies by weights [in, out].
TURNED = LAYER | {name: Source(LAYER[name], transposed=True) for name in ("o_proj", "up_proj", "down_proj")}
NEO = LAYER | {
    "q_proj": "attn.attention.q_proj",
    "k_proj": "attn.attention.k_proj",
    "v_proj": "attn.attention.v_proj",
    "o_proj": "attn.attention.out_proj",
}


def fused(c: GptConfig) -> dict[str, str | Source]:
    """Queries, keys and values of OpenAI's layers."""
    return joined("attn.c_attn", c.attention_sizes, transposed=True)


def grouped(c: GptConfig) -> dict[str, str | Source]:
    """Those of BigCode's: by head, or all queries before the one key and the one value."""
    return joined("attn.c_attn", c.attention_sizes, groups_apart(c.num_attention_heads, c.num_key_value_heads))


def table(ends: Mapping[str, str | Source], layer: Mapping[str, str | Source]) -> NameMap:
    """Names of a whole model."""
    return name_map({**ends, **per_layer("transformer.h.{i}.", dict(layer))})


def decoder(g: GraphBuilder, c: GptConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    step = cache_inputs(g, c)
    positions = step_positions(g, step, g.input("input_ids"))
    x = g.op("Add", decoder_input(g, c), learned_positions(g, positions, c.max_position_embeddings, c.hidden_size))
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            x = residual_layer(g, x, c, partial(self_attention, step=step, i=i), mlp)
    decoder_output(g, stated_norm(g, x, "final_norm", c) if c.final_norm else x, c)


# What transformers assumes where a config is silent.
USUAL = {"tie_word_embeddings": True, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "mlp_bias": True}
BIASED = USUAL | {"attention_bias": True}

SHARED: dict[str, Any] = {
    "read_config": read_gpt2_config,
    "decoder": decoder,
    "prefix": "transformer.",
    "ignored": {
        "*.attn.bias": "the causal mask",
        "*.attn.attention.bias": "the causal mask",
        "*.masked_bias": "what stood for masked scores",
    },
}

OPENAI_GPT = Architecture(
    "openai-gpt",
    {"openai-gpt": BIASED | {"hidden_act": "gelu", "gelu_is_tanh": True, "layer": "post-norm", "final_norm": False}},
    names={"hf": lambda c: table(FIRST_ENDS, TURNED | fused(c))},
    **SHARED,
)
GPT2 = Architecture(
    "gpt2", {"gpt2": BIASED}, names={"hf": lambda c: table(ENDS, TURNED | fused(c)), "gguf": gguf_fused}, **SHARED
)
GPT_BIGCODE = Architecture(
    "gpt_bigcode",
    {"gpt_bigcode": BIASED | {"hidden_act": "gelu_pytorch_tanh", "multi_query": True}},
    names={"hf": lambda c: table(ENDS, LAYER | grouped(c)), "gguf": gguf_fused},
    **SHARED,
)
GPT_NEO = Architecture(
    "gpt_neo",
    {"gpt_neo": USUAL | {"attention_output_bias": True, "scale_attn_weights": False, "window_size": 256}},
    names={"hf": lambda c: table(ENDS, NEO)},
    **SHARED,
)
