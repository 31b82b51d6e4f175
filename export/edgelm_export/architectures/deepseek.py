"""DeepSeek V2 and V3: latent attention, and mixtures of experts behind a few dense layers."""

from __future__ import annotations

from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.expert_names import CORRECTION, QWEN, SHARED
from edgelm_export.architectures.mixture import IGNORED, further_predictions
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.latent_attention import latent_attention
from edgelm_export.blocks.latent_cache import latent_inputs
from edgelm_export.blocks.moe import sparse_or_dense
from edgelm_export.blocks.norm import rms_norm
from edgelm_export.config import DeepseekConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap, Rows, Source, name_map, per_layer
from edgelm_export.read_deepseek_config import read_deepseek_config

HF = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "q_a_proj": "self_attn.q_a_proj",
    "q_a_norm": "self_attn.q_a_layernorm",
    "q_b_proj": "self_attn.q_b_proj",
    "kv_a_proj": "self_attn.kv_a_proj_with_mqa",
    "kv_a_norm": "self_attn.kv_a_layernorm",
    "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}


def hf_names(c: DeepseekConfig) -> NameMap:
    """One tensor holds what makes keys and values of latents, head by head."""
    whole = {"embed_tokens": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"}
    heads: dict[str, str | Source] = {}
    key, both = c.latent.qk_nope_head_dim, c.latent.qk_nope_head_dim + c.latent.v_head_dim
    total = c.num_attention_heads * both
    for h in range(c.num_attention_heads):
        first = h * both
        heads[f"heads.{h}.k_up_proj"] = Source("self_attn.kv_b_proj", rows=Rows(first, first + key, total), turned=True)
        heads[f"heads.{h}.v_up_proj"] = Source("self_attn.kv_b_proj", rows=Rows(first + key, first + both, total))
    experts = {**QWEN, **SHARED, "router_correction": Source(CORRECTION, leaf=False)}
    return name_map(whole | per_layer("model.layers.{i}.", {**HF, **experts, **heads}))


def decoder(g: GraphBuilder, c: DeepseekConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    step, x = latent_inputs(g, c), decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = rms_norm(g, x, "attn_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, latent_attention(g, h, c, step, i))
            h = rms_norm(g, x, "mlp_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, sparse_or_dense(g, h, c, i))
    decoder_output(g, rms_norm(g, x, "final_norm", c.hidden_size, c.norm_eps), c)


# What transformers assumes where a config is silent.
SIZES = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
V2 = SIZES | {
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "moe_intermediate_size": 1407,
}
V3 = SIZES | {
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "n_group": 8, "topk_group": 4, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "first_k_dense_replace": 3,
    "moe_intermediate_size": 2048,
}  # fmt: skip

DEEPSEEK = Architecture(
    family="deepseek",
    model_types={
        "deepseek_v2": V2 | {"rope_theta": 10000.0, "interleaved_rotary": True},
        "deepseek_v3": V3 | {"rope_theta": 10000.0, "interleaved_rotary": True},
    },
    names={"hf": hf_names},
    read_config=read_deepseek_config,
    decoder=decoder,
    prefix="model.",
    ignored=IGNORED,
    left_out=further_predictions,
)
