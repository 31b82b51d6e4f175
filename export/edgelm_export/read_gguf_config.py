"""GGUF metadata in, the same facts in Hugging Face's spelling out. Names: llama.cpp's gguf-py/gguf/constants.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.gguf_architectures import gguf_architecture, gguf_model_type

_KEYS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "clip_qkv": "attention.clamp_kqv",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "norm_topk_prob": "expert_weights_norm",
    "routed_scaling_factor": "expert_weights_scale",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "moe_layer_interval": "interleave_moe_layer_step",
}
_SCORINGS = {1: "softmax", 2: "sigmoid"}
_SCALING_KEYS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_context_length",
    "attention_factor": "yarn_attn_factor",
    "extrapolation_factor": "yarn_ext_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "mscale_all_dim": "yarn_log_multiplier",
}
_KINDS_OF_SCALING = {None: "default", "none": "default"}

# A key behind the architecture's name -> its value, None where there is none.
Metadata = Callable[[str], Any]


def gguf_as_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The metadata as a raw config; what GGUF says only through the presence of tensors is read from their names."""
    name, tensors = checkpoint.config.get("general.architecture"), checkpoint.tensors
    architecture = gguf_architecture(str(name))

    def metadata(key: str) -> Any:
        return checkpoint.config.get(f"{name}.{key}")

    model_type = gguf_model_type(str(name), metadata("expert_count"))
    raw: dict[str, Any] = {"model_type": model_type, "hidden_act": "silu", **architecture.facts}
    stated = {ours: metadata(key) for ours, key in {**_KEYS, **architecture.keys}.items()}
    raw |= {key: value for key, value in stated.items() if value is not None}
    table = tensors.get("token_embd.weight")
    raw["vocab_size"] = metadata("vocab_size") if table is None else table.shape[0]
    raw["tie_word_embeddings"] = "output.weight" not in tensors
    raw["qkv_bias"] = any(f"blk.0.{part}.bias" in tensors for part in ("attn_q", "attn_qkv"))
    raw["attention_bias"] = False  # each bias speaks for itself
    raw["attention_output_bias"] = "blk.0.attn_output.bias" in tensors
    raw["mlp_bias"] = any(f"blk.0.{part}.bias" in tensors for part in ("ffn_gate", "ffn_up"))
    raw["qk_norm"] = "blk.0.attn_q_norm.weight" in tensors or None
    if "blk.0.attn_norm_2.weight" in tensors:
        raw["num_ln_in_parallel_attn"] = 2
    raw["lm_head_bias"] = "output.bias" in tensors
    raw |= _experts(checkpoint, metadata)
    if further := metadata("nextn_predict_layers"):  # counted among the layers
        raw |= {"num_nextn_predict_layers": further, "num_hidden_layers": raw["num_hidden_layers"] - further}
    head_dim = raw.get("head_dim") or _share(raw)
    if architecture.wide_heads is not None:
        raw["query_pre_attn_scalar"] = (
            _share(raw) if raw.get("num_hidden_layers") == architecture.wide_heads else head_dim
        )
    rotary = metadata("rope.dimension_count")
    if rotary is not None and head_dim:
        raw["partial_rotary_factor"] = rotary / head_dim
    raw["rope_scaling"] = {**architecture.facts.get("rope_scaling", {}), **_scaling(checkpoint, metadata)}
    return {**{key: value for key, value in raw.items() if value is not None}, **_windows(raw, metadata)}


def _experts(checkpoint: Checkpoint, metadata: Metadata) -> dict[str, Any]:
    """How a router scores, by its number; how wide the expert of all tokens is, by its tensor."""
    found: dict[str, Any] = {}
    scoring = metadata("expert_gating_func")
    if scoring is not None:
        found["scoring_func"] = _SCORINGS.get(scoring, f"number {scoring}")
    shared = [tensor for name, tensor in checkpoint.tensors.items() if name.endswith(".ffn_up_shexp.weight")]
    return found | ({"shared_expert_intermediate_size": shared[0].shape[0]} if shared else {})


def _share(raw: dict[str, Any]) -> int:
    """An equal share of the hidden size for each head."""
    return (raw.get("hidden_size") or 0) // (raw.get("num_attention_heads") or 1)


def _windows(raw: dict[str, Any], metadata: Metadata) -> dict[str, Any]:
    """A window of 0, or no word of one, is none; a pattern says which layers have it, or after how many layers comes one that has not."""
    pattern = metadata("attention.sliding_window_pattern")
    found: dict[str, Any] = {} if raw.get("sliding_window") else {"sliding_window": None}
    if isinstance(pattern, int) and not isinstance(pattern, bool):
        found["sliding_window_pattern"] = pattern
    elif isinstance(pattern, list):
        found["layer_types"] = ["sliding_attention" if local else "full_attention" for local in pattern]
    return found


def _scaling(checkpoint: Checkpoint, metadata: Metadata) -> dict[str, Any]:
    """Factors of single frequencies are tensors: of Llama 3 one divisor each, of LongRoPE two."""
    tensors, kind = checkpoint.tensors, metadata("rope.scaling.type")
    if "rope_freqs.weight" in tensors:
        return {"rope_type": "freq_factors"}
    scaling = {name: metadata(f"rope.scaling.{key}") for name, key in _SCALING_KEYS.items()}
    scaling["rope_type"] = _KINDS_OF_SCALING.get(kind, kind)
    if scaling["mscale_all_dim"]:
        scaling["mscale"] = 1.0
    if "rope_factors_long.weight" in tensors:
        factors = {f"{reach}_factor": tensors[f"rope_factors_{reach}.weight"].read() for reach in ("short", "long")}
        attention_factor = metadata("rope.scaling.attn_factor")
        scaling |= {"rope_type": "longrope", "factor": None, "attention_factor": attention_factor}
        scaling |= {name: values.tolist() for name, values in factors.items()}
    return {key: value for key, value in scaling.items() if value is not None}
