"""Raw keys of GPT-like decoders with learned positions in, GptConfig out; what readers of their kin share."""

from __future__ import annotations

from typing import Any

from edgelm_export.config import GptConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import decoder_values

# Spellings of these families -> ours. norm_eps of a config serves LayerNorm too.
_SPELLINGS = {
    spelling: name
    for name, spellings in {
        "hidden_size": "n_embd n_embed d_model",
        "num_hidden_layers": "n_layer n_layers num_layers",
        "num_attention_heads": "n_head n_heads num_heads",
        "num_key_value_heads": "num_kv_heads",
        "max_position_embeddings": "n_positions max_seq_len",
        "intermediate_size": "n_inner ffn_dim ffn_hidden_size",
        "hidden_act": "activation_function activation afn",
        "rms_norm_eps": "layer_norm_eps layer_norm_epsilon norm_epsilon norm_eps",
        "rope_theta": "rotary_emb_base",
        "partial_rotary_factor": "rotary_pct",
        "qkv_bias": "use_qkv_bias",
        "qk_norm": "qk_layernorm",
    }.items()
    for spelling in spellings.split()
}

# Training, storage, what follows from other keys, and what no implementation reads.
_PASSED_OVER = (
    "attn_pdrop attention_layers n_ctx attention_softmax_in_fp32 scale_attention_softmax_in_fp32 reorder_and_upcast_attn",
    "summary_proj_to_labels embed_dropout resid_dropout activation_dropout dropout layerdrop init_std tokenizer_class",
    "validate_runner_input inference_runner max_batch_size max_sequence_length pre_allocate_kv_cache predict_special_tokens",
)


def gpt_values(reader: ConfigReader, *, rotary: bool, **own: Any) -> dict[str, Any]:
    """The fields of a GptConfig as most of these families have them; `own` replaces what a family has otherwise."""
    reader.rename(_SPELLINGS)
    for key in " ".join(_PASSED_OVER).split():
        reader.get(key)
    hidden_size = reader.size("hidden_size")
    reader.assume("intermediate_size", 4 * hidden_size)
    reader.assume("use_sliding_window", False)
    values = decoder_values(reader, rotary=rotary)
    return {
        **values,
        "layer": "pre-norm",
        "norm_parts": ("weight", "bias"),
        "norm_offset": 0.0,
        "embedding_norm": False,
        "final_norm": True,
        "embedding_size": hidden_size,
        "max_position_embeddings": 0,
        "position_offset": 0,
        "alibi": None,
        "lm_head_bias": reader.flag("lm_head_bias"),
        **own,
    }


def read_gpt2_config(reader: ConfigReader) -> GptConfig:
    """The config of a GPT-2 or one of its kin; problems are left with the reader.

    Facts say where norms stand (`layer`, `final_norm`), and `gelu_is_tanh` that the activation called gelu is the approximation.
    """
    values = gpt_values(reader, rotary=False)
    layers = values["num_hidden_layers"]
    reader.require("scale_attn_by_inverse_layer_idx", False)
    multi_query = reader.flag("multi_query")
    if multi_query:
        values["num_key_value_heads"] = 1
    unscaled = not reader.flag("scale_attn_weights", True)
    tanh = reader.flag("gelu_is_tanh") and values["hidden_act"] == "gelu"
    return GptConfig(
        **{
            **values,
            "layer": str(reader.get("layer") or "pre-norm"),
            "final_norm": reader.flag("final_norm", True),
            "hidden_act": "gelu_new" if tanh else values["hidden_act"],
            "attention_scale": 1.0 if unscaled else None,
            "max_position_embeddings": reader.size("max_position_embeddings"),
            "sliding_windows": _local_layers(reader, layers, values["context_length"]),
        }
    )


def _local_layers(reader: ConfigReader, layers: int, context: int) -> tuple[int | None, ...]:
    """GPT-Neo's windows, from patterns of layers and how often each is repeated: [[["global", "local"], 12]]."""
    patterns = reader.get("attention_types")
    if patterns is None:
        return (None,) * layers
    length = reader.size("window_size", 256)
    window = length if length < context else None
    try:
        kinds = [kind for pattern, times in patterns for kind in pattern * times]
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != layers or set(kinds) - {"global", "local"}:
        reader.problem(f"attention_types {patterns!r} must name global or local for each of the {layers} layers")
        return (None,) * layers
    return tuple(window if kind == "local" else None for kind in kinds)
