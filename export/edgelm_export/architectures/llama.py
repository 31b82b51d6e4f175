"""Llama-like decoders: pre-norm, RMS norm, rotary positions, grouped-query attention, gated MLP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from edgelm.tasks import SEQUENCE_CLASSIFICATION
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.llama_names import IGNORED, gguf_names, hf_names, permuted_gguf_names
from edgelm_export.blocks.attention import self_attention, whole_text_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.encoder import Tokens
from edgelm_export.blocks.encoder_heads import PLAIN_HEADS, last_token_classifier
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.linear import embedding
from edgelm_export.blocks.mlp import FeedForward, gated_mlp
from edgelm_export.blocks.norm import Norm, head_norms, rms_norm
from edgelm_export.blocks.rotary import whole_text
from edgelm_export.blocks.scaling import scaled
from edgelm_export.config import DecoderConfig
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import name_map
from edgelm_export.read_decoder_config import read_decoder_config

# What transformers assumes where a config is silent.
QWEN = {"rope_theta": 10000.0, "use_sliding_window": False, "max_window_layers": 28}


def decoder(g: GraphBuilder, c: DecoderConfig, mlp: FeedForward = gated_mlp, norm: Norm = rms_norm) -> None:
    """Token ids and cache in, logits and cache out."""
    attend = partial(self_attention, step=cache_inputs(g, c), norms=head_norms if c.qk_norm else None)
    decoder_output(g, layers(g, decoder_input(g, c), c, attend, mlp, norm), c)


def encoder(g: GraphBuilder, c: DecoderConfig, tokens: Tokens) -> Value:
    """The same layers over whole texts, for models that were trained to embed them."""
    text = whole_text(g, c, c.ropes, tokens.mask)
    attend = partial(whole_text_attention, text=text, norms=head_norms if c.qk_norm else None)
    return layers(g, scaled(g, embedding(g, tokens.ids, c), c.embedding_scale), c, attend)


def layers(
    g: GraphBuilder,
    x: Value,
    c: DecoderConfig,
    attend: Callable[..., Value],
    mlp: FeedForward = gated_mlp,
    norm: Norm = rms_norm,
) -> Value:
    """All layers and the last norm: [batch, sequence, hidden_size] -> the same."""
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = norm(g, x, "attn_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, scaled(g, attend(g, h, c, i=i), c.residual_scale))
            h = norm(g, x, "mlp_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, scaled(g, mlp(g, h, c), c.residual_scale))
    return norm(g, x, "final_norm", c.hidden_size, c.norm_eps)


LLAMA = Architecture(
    family="llama",
    model_types={
        "llama": {"rope_theta": 10000.0, "use_sliding_window": False},
        "mistral": {"rope_theta": 10000.0, "sliding_window": 4096},
    },
    names={"hf": hf_names, "gguf": permuted_gguf_names},
    read_config=read_decoder_config,
    decoder=decoder,
    encoder=encoder,
    heads={**PLAIN_HEADS, SEQUENCE_CLASSIFICATION: last_token_classifier},
    head_names=lambda c: name_map({"score": "score"}),
    prefix="model.",
    ignored=IGNORED,
)

QWEN2 = replace(
    LLAMA,
    family="qwen2",
    model_types={
        "qwen2": QWEN | {"qkv_bias": True, "attention_output_bias": False},
        "qwen3": QWEN | {"qk_norm": True},
    },
    names={"hf": hf_names, "gguf": gguf_names},
)
