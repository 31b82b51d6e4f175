"""gpt-oss: mixtures of experts with clamped gates and biases, attention sinks, local and global layers in turn."""

from __future__ import annotations

from edgelm_export.architectures import llama_names
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.expert_names import gguf_experts
from edgelm_export.blocks.attention import attention_sinks, self_attention
from edgelm_export.blocks.cache import cache_inputs
from edgelm_export.blocks.heads import decoder_input, decoder_output
from edgelm_export.blocks.moe import mixture_of_experts
from edgelm_export.blocks.norm import rms_norm
from edgelm_export.config import MixtureConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import NameMap, Rows, Source
from edgelm_export.read_moe_config import read_gpt_oss_config

# What transformers assumes where a config is silent.
YARN = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}


def hf_names(c: MixtureConfig) -> NameMap:
    """Experts lie in stacks, transposed, with rows of gate and up in turn."""
    inner, experts = c.moe.moe_intermediate_size, c.moe.num_experts
    table: dict[str, str | Source] = {"router": "mlp.router", "sinks": Source("self_attn.sinks", leaf=False)}
    for start, name in enumerate(("gate_proj", "up_proj")):
        rows = Rows(start, 2 * inner, 2 * inner, step=2)
        both = Source("mlp.experts.gate_up_proj", rows=rows, transposed=True, leaf=False, stacked=experts)
        bias = Source("mlp.experts.gate_up_proj_bias", rows=rows, leaf=False, stacked=experts)
        table |= {f"experts.{{e}}.{name}.weight": both, f"experts.{{e}}.{name}.bias": bias}
    down = Source("mlp.experts.down_proj", transposed=True, leaf=False, stacked=experts)
    table["experts.{e}.down_proj.weight"] = down
    table["experts.{e}.down_proj.bias"] = Source("mlp.experts.down_proj_bias", leaf=False, stacked=experts)
    return llama_names.hf_names(c, table)


def gguf_names(c: MixtureConfig) -> NameMap:
    """llama.cpp stores gate and up apart."""
    own = {**gguf_experts(c), "sinks": "attn_sinks", "mlp_norm": "post_attention_norm"}
    return llama_names.gguf_names(c, own)


def decoder(g: GraphBuilder, c: MixtureConfig) -> None:
    """Token ids and cache in, logits and cache out."""
    step, x = cache_inputs(g, c), decoder_input(g, c)
    for i in range(c.num_hidden_layers):
        with g.at("layers", i):
            h = rms_norm(g, x, "attn_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, self_attention(g, h, c, step, i, sinks=attention_sinks(g, c)))
            h = rms_norm(g, x, "mlp_norm", c.hidden_size, c.norm_eps)
            x = g.op("Add", x, mixture_of_experts(g, h, c, c.moe))
    decoder_output(g, rms_norm(g, x, "final_norm", c.hidden_size, c.norm_eps), c)


GPT_OSS = Architecture(
    family="gpt_oss",
    model_types={
        "gpt_oss": {
            "attention_bias": True, "norm_topk_prob": True, "router_bias": True, "expert_bias": True, "swiglu_alpha": 1.702,
            "swiglu_beta": 1.0, "swiglu_limit": 7.0, "rope_theta": 150000.0, "rope_scaling": YARN, "sliding_window": 128,
        },
    },
    names={"hf": hf_names, "gguf": gguf_names},
    read_config=read_gpt_oss_config,
    decoder=decoder,
    prefix="model.",
    ignored=llama_names.IGNORED,
)  # fmt: skip
