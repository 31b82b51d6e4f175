"""Names of experts and routers: canonical -> source module names of each family that stands on Llama's layers."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm_export.architectures import llama_names
from edgelm_export.config import MixtureConfig
from edgelm_export.names import NameMap, Source, joined

QWEN = {
    "router": "mlp.gate",
    "experts.{e}.gate_proj": "mlp.experts.{e}.gate_proj",
    "experts.{e}.up_proj": "mlp.experts.{e}.up_proj",
    "experts.{e}.down_proj": "mlp.experts.{e}.down_proj",
    "shared.gate_proj": "mlp.shared_expert.gate_proj",
    "shared.up_proj": "mlp.shared_expert.up_proj",
    "shared.down_proj": "mlp.shared_expert.down_proj",
    "shared_gate": "mlp.shared_expert_gate",
}
SHARED = {f"shared.{name}": f"mlp.shared_experts.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
MIXTRAL = {
    "router": "block_sparse_moe.gate",
    "experts.{e}.gate_proj": "block_sparse_moe.experts.{e}.w1",
    "experts.{e}.up_proj": "block_sparse_moe.experts.{e}.w3",
    "experts.{e}.down_proj": "block_sparse_moe.experts.{e}.w2",
}
CORRECTION = "mlp.gate.e_score_correction_bias"

Table = Mapping[str, str | Source]


def _granite(c: MixtureConfig) -> Table:
    inner, experts = c.moe.moe_intermediate_size, c.moe.num_experts
    sizes = {"experts.{e}.gate_proj": inner, "experts.{e}.up_proj": inner}
    return {
        "router": "block_sparse_moe.router.layer",
        **joined("block_sparse_moe.input_linear", sizes, stacked=experts),
        "experts.{e}.down_proj": Source("block_sparse_moe.output_linear", stacked=experts),
    }


def _ernie(c: MixtureConfig) -> Table:
    correction = Source("mlp.moe_statics.e_score_correction_bias", leaf=False, stacked=1)
    return {**QWEN, **SHARED, "router_correction": correction}


_OWN = {
    "mixtral": lambda c: MIXTRAL,
    "phimoe": lambda c: MIXTRAL,
    "granitemoe": _granite,
    "glm4_moe": lambda c: {**QWEN, **SHARED, "router_correction": Source(CORRECTION, leaf=False)},
    "ernie4_5_moe": _ernie,
}


def hf_names(c: MixtureConfig) -> NameMap:
    """Llama's names, with those of the family's experts."""
    return llama_names.hf_names(c, _OWN.get(c.model_type, lambda c: QWEN)(c))


def gguf_experts(c: MixtureConfig) -> Table:
    """llama.cpp's names: the experts of a layer in three stacks."""
    stacks = {f"experts.{{e}}.{name}_proj": f"ffn_{name}_exps" for name in ("gate", "up", "down")}
    return {
        **{ours: Source(theirs, stacked=c.moe.num_experts) for ours, theirs in stacks.items()},
        **{f"shared.{name}_proj": f"ffn_{name}_shexp" for name in ("gate", "up", "down")},
        "router": "ffn_gate_inp",
        "router_correction": "exp_probs_b",
        "shared_gate": Source("ffn_gate_inp_shexp", flat=True),
    }


def gguf_names(c: MixtureConfig) -> NameMap:
    """The same in llama.cpp's files. Mixtral and Granite are stored as Llama is, with their rotary rows in pairs."""
    own: Table = {**gguf_experts(c), **({"mlp_norm": "post_attention_norm"} if c.model_type == "glm4_moe" else {})}
    names = llama_names.gguf_names(c, own)
    if c.model_type in ("mixtral", "granitemoe"):
        permuted = llama_names.permuted_gguf_names(c)
        names = {**names, **{f"layers.{{i}}.{name}": permuted[f"layers.{{i}}.{name}"] for name in ("q_proj", "k_proj")}}
    return names
