"""What Llama and its descendants call their modules, in Hugging Face's files and in llama.cpp's; each may differ in a few."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm_export.config import DecoderConfig
from edgelm_export.names import NameMap, Source, joined, name_map, per_layer
from edgelm_export.transforms import Transform, unpermute_rope

Table = Mapping[str, str | Source]

HF_ENDS: Table = {"embed_tokens": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"}
HF_LAYER: Table = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}

GGUF_ENDS: Table = {
    "embed_tokens": "token_embd",
    "final_norm": "output_norm",
    "lm_head": "output",
    "rope_factors": "rope_freqs",
}
GGUF_LAYER: Table = {
    "attn_norm": "attn_norm",
    "attn_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "mlp_post_norm": "post_ffw_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}

HF: Table = {**HF_ENDS, **per_layer("model.layers.{i}.", HF_LAYER)}
GGUF: Table = {**GGUF_ENDS, **per_layer("blk.{i}.", GGUF_LAYER)}

IGNORED: Mapping[str, str] = {
    "*.rotary_emb.inv_freq": "computed from rope_theta",
    "rope_factors_*.weight": "read with the config",
}


def hf_names(c: DecoderConfig, other: Table | None = None) -> NameMap:
    """Llama's names in Hugging Face's files, with `other` names within a layer."""
    return name_map({**HF, **per_layer("model.layers.{i}.", other or {})})


def gguf_names(c: DecoderConfig, other: Table | None = None) -> NameMap:
    """The same in llama.cpp's files."""
    return name_map({**GGUF, **per_layer("blk.{i}.", other or {})})


def permuted_gguf_names(c: DecoderConfig) -> NameMap:
    """The same for models whose rows of q and k llama.cpp keeps in its own rotary order, neighbours turning together."""
    q = Source("attn_q", unpermute_rope(c.num_attention_heads))
    return gguf_names(c, {"q_proj": q, "k_proj": Source("attn_k", unpermute_rope(c.num_key_value_heads))})


def joined_qkv(c: DecoderConfig, source: str) -> Table:
    """Query, key and value in one module."""
    return joined(source, {"q_proj": c.query_size, "k_proj": c.key_value_size, "v_proj": c.key_value_size})


def joined_gate(c: DecoderConfig, source: str) -> Table:
    """The gate and what it gates in one module."""
    return joined(source, dict.fromkeys(("gate_proj", "up_proj"), c.intermediate_size))


def transformed_norms(names: NameMap, transform: Transform) -> NameMap:
    """The same names where the file keeps the weights of all norms in another form."""
    return {name: Source(source.name, transform) if name.endswith("norm") else source for name, source in names.items()}
