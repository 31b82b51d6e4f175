"""What llama.cpp calls the modules of a decoder, for the families of this folder."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm_export.config import ModelConfig
from edgelm_export.names import NameMap, Source, joined, name_map, per_layer

ENDS = {
    "embed_tokens": "token_embd",
    "embedding_norm": "token_embd_norm",
    "position_embeddings": "position_embd",
    "final_norm": "output_norm",
    "lm_head": "output",
    "rope_factors": "rope_freqs",
}
LAYER = {
    "attn_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
APART = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v"}


def gguf_fused(c: ModelConfig, more: Mapping[str, str | Source] | None = None) -> NameMap:
    """Names where all queries, all keys and all values are one tensor; `more` of a layer replaces the usual ones."""
    return gguf_table({**joined("attn_qkv", c.attention_sizes), **(more or {})})


def gguf_apart(more: Mapping[str, str | Source] | None = None) -> NameMap:
    """Names where queries, keys and values are tensors of their own."""
    return gguf_table({**APART, **(more or {})})


def gguf_table(layer: Mapping[str, str | Source]) -> NameMap:
    """Names of a whole model, whose layers have `layer` besides what all have."""
    return name_map({**ENDS, **per_layer("blk.{i}.", {**LAYER, **layer})})
