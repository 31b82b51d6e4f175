"""Random checkpoints as llama.cpp's converter would store them: hub config and tensors in, a .gguf file out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType
from numpy.typing import NDArray

from tests.architectures.random_checkpoints import (
    SPECIAL_TOKENS,
    Tensors,
    head_dim,
    key_value_heads,
    tiny_vocabulary,
)
from tests.architectures.random_configs import Config, older_spelling

# llama.cpp stores Mistral as Llama.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}

_MODULES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, config: Config, tensors: Tensors, tensor_type: str = "F32") -> Path:
    """Writes the file; matrices take `tensor_type`, norms and biases stay float32 as llama.cpp keeps them. Returns the path."""
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config["model_type"]])
    _add_metadata(writer, older_spelling(config))
    _add_tokenizer(writer, config)
    for name, values in tensors.items():
        kind = GGMLQuantizationType[tensor_type if values.ndim == 2 else "F32"]
        stored = gguf.quants.quantize(_permuted(config, name, values), kind)
        writer.add_tensor(_gguf_name(name), stored, raw_dtype=kind)
    if (config.get("rope_scaling") or {}).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _rope_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(tensors: Tensors, tensor_type: str) -> Tensors:
    """The values that a file with matrices of `tensor_type` holds, as float32."""
    kind = GGMLQuantizationType[tensor_type]

    def through(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind).reshape(values.shape)

    return {name: through(values) if values.ndim == 2 else values for name, values in tensors.items()}


def _add_metadata(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(key_value_heads(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(head_dim(config))
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])


def _add_tokenizer(writer: gguf.GGUFWriter, config: Config) -> None:
    tokens, merges = tiny_vocabulary(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in SPECIAL_TOKENS else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def _gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.bias` -> `blk.3.attn_q.bias`."""
    module, leaf = name.rsplit(".", 1)
    if not module.startswith("model.layers."):
        return f"{_MODULES[module]}.{leaf}"
    layer, inner = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_MODULES[inner]}.{leaf}"


def _permuted(config: Config, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of q and k of Llama and Mistral in pairs (j, j + head_dim / 2), the order llama.cpp rotates them in.

    head of 8 rows:  0 1 2 3 4 5 6 7  ->  0 4 1 5 2 6 3 7
    """
    heads = _heads_by_projection(config).get(name.split(".")[-2])
    if heads is None or ARCHITECTURES[config["model_type"]] != "llama":
        return values
    order = np.arange(values.shape[0]).reshape(heads, 2, -1).transpose(0, 2, 1).ravel()
    return values[order]


def _heads_by_projection(config: Config) -> Mapping[str, int]:
    return {"q_proj": config["num_attention_heads"], "k_proj": key_value_heads(config)}


def _rope_factors(config: Config) -> NDArray[np.float32]:
    """What llama.cpp divides each rotary frequency by to get Llama 3's scaling."""
    scaling, size = config["rope_scaling"], head_dim(config)
    context, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors: list[float] = []
    for j in range(size // 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (2 * j / size)
        if wavelength < context / high:
            factors.append(1)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            share = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - share) / factor + share))
    return np.array(factors, np.float32)
