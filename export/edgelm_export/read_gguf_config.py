"""GGUF metadata in, the same facts in Hugging Face's spelling out. Names: llama.cpp's gguf-py/gguf/constants.py."""

from __future__ import annotations

from typing import Any

from edgelm_export.checkpoint.base import Checkpoint

_KEYS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
}
_SCALINGS = {None: "default", "none": "default", "linear": "linear"}


def gguf_as_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The metadata as a raw config; what GGUF says only through the presence of tensors is read from their names."""
    metadata, tensors = checkpoint.config, checkpoint.tensors
    kind = metadata.get("general.architecture")
    raw: dict[str, Any] = {"model_type": kind, "hidden_act": "silu"}
    raw |= {name: metadata.get(f"{kind}.{key}") for name, key in _KEYS.items()}
    raw["vocab_size"] = (
        tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else metadata.get(f"{kind}.vocab_size")
    )
    raw["tie_word_embeddings"] = "output.weight" not in tensors
    raw["qkv_bias"] = "blk.0.attn_q.bias" in tensors
    raw["attention_output_bias"] = "blk.0.attn_output.bias" in tensors
    raw["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
    scaling = metadata.get(f"{kind}.rope.scaling.type")
    raw["rope_scaling"] = {
        "rope_type": _SCALINGS.get(scaling, scaling),
        "factor": metadata.get(f"{kind}.rope.scaling.factor"),
    }
    if "rope_freqs.weight" in tensors:  # llama.cpp keeps Llama 3's scaling as one divisor a frequency
        raw["rope_scaling"] = {"rope_type": "freq_factors"}
    rotary = metadata.get(f"{kind}.rope.dimension_count")
    head_dim = raw["head_dim"] or (raw["hidden_size"] or 0) // (raw["num_attention_heads"] or 1)
    if rotary is not None and head_dim and rotary != head_dim:
        raw["partial_rotary_factor"] = rotary / head_dim
    return {key: value for key, value in raw.items() if value is not None}
