"""Llama-like decoders whose MLPs are mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from edgelm_export.architectures import llama
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.expert_names import gguf_names, hf_names
from edgelm_export.architectures.llama_names import IGNORED
from edgelm_export.blocks.attention import HeadNorms, self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.moe import sparse_or_dense
from edgelm_export.blocks.norm import head_norms, rms_norm, whole_norms
from edgelm_export.blocks.scaling import scaled
from edgelm_export.config import MixtureConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.read_moe_config import read_granite_mixture_config, read_mixture_config


def decoder(g: GraphBuilder, c: MixtureConfig, norms: HeadNorms | None = None) -> None:
    """Token ids and cache in, logits and cache out; `norms` of queries and keys stand in place of those of each head."""
    norms = norms or (head_norms if c.qk_norm else None)
    step, x = cache_inputs(g, c), decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = rms_norm(g, x, "attn_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, scaled(g, self_attention(g, h, c, step, i, norms=norms), c.residual_scale))
            h = rms_norm(g, x, "mlp_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, scaled(g, sparse_or_dense(g, h, c, i), c.residual_scale))
    decoder_output(g, rms_norm(g, x, "final_norm", c.hidden_size, c.norm_eps), c)


def further_predictions(c: MixtureConfig) -> Mapping[str, str]:
    """Layers behind the last one, for tokens after the next."""
    extra = range(c.num_hidden_layers, c.num_hidden_layers + c.num_nextn_predict_layers)
    return {f"{stem}.{i}.*": "predicts tokens after the next one" for i in extra for stem in ("model.layers", "blk")}


# What transformers assumes where a config is silent.
MIXTURE = Architecture(
    family="mixture",
    model_types={
        "mixtral": {"rope_theta": 1e6, "norm_topk_prob": True, "windows_everywhere": True},
        "qwen2_moe": llama.QWEN | {
            "qkv_bias": True, "attention_output_bias": False, "shared_expert_intermediate_size": 5632, "shared_gate": True,
            "windows_by_layer": True,
        },
        "qwen3_moe": llama.QWEN | {"qk_norm": True, "windows_everywhere": True},
        "glm4_moe": {
            "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "attention_output_bias": False, "use_sliding_window": False,
            "norm_topk_prob": True, "n_shared_experts": 1, "first_k_dense_replace": 1, "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        },
        "ernie4_5_moe": {
            "rope_theta": 500000.0, "interleaved_rotary": True, "use_sliding_window": False, "norm_topk_prob": True,
            "score_correction": True, "n_shared_experts": 2, "moe_layer_start_index": 1, "tie_word_embeddings": True,
        },
    },
    names={"hf": hf_names, "gguf": gguf_names},
    read_config=read_mixture_config,
    decoder=decoder,
    prefix="model.",
    ignored=IGNORED,
    left_out=further_predictions,
)  # fmt: skip

GRANITE_MOE = replace(
    MIXTURE,
    family="granitemoe",
    model_types={"granitemoe": {"rope_theta": 10000.0, "norm_topk_prob": True, "use_sliding_window": False}},
    read_config=read_granite_mixture_config,
)

OLMOE = replace(
    MIXTURE,
    family="olmoe",
    model_types={"olmoe": {"rope_theta": 10000.0, "use_sliding_window": False}},
    decoder=partial(decoder, norms=whole_norms),
)
