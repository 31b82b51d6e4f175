"""Random checkpoints as llama.cpp's converter would store them: hub config and tensors in, a .gguf file out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType
from numpy.typing import NDArray

from tests.architectures import gguf_families, gguf_gpt, gguf_lineage, gguf_moe_families
from tests.architectures.random_checkpoints import SPECIAL_TOKENS, Tensors, tiny_vocabulary
from tests.architectures.random_configs import Config, older_spelling

FAMILIES = {
    **gguf_families.FAMILIES,
    **gguf_gpt.FAMILIES,
    **gguf_lineage.FAMILIES,
    **gguf_moe_families.MOE_FAMILIES,
}

# What the converter writes for every model type: the names one fact goes by in config.json, and the writer's method.
_METADATA = (
    (("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"), "add_context_length"),
    (("hidden_size", "n_embd", "n_embed", "d_model"), "add_embedding_length"),
    (("intermediate_size", "n_inner"), "add_feed_forward_length"),
    (("num_attention_heads", "n_head", "n_heads"), "add_head_count"),
    (("num_key_value_heads",), "add_head_count_kv"),
    (("rope_theta",), "add_rope_freq_base"),
    (("rms_norm_eps",), "add_layer_norm_rms_eps"),
    (("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"), "add_layer_norm_eps"),
    (("head_dim",), "add_key_length"),
    (("head_dim",), "add_value_length"),
)
_YARN = (
    ("attention_factor", "add_rope_scaling_yarn_attn_factor"),
    ("beta_fast", "add_rope_scaling_yarn_beta_fast"),
    ("beta_slow", "add_rope_scaling_yarn_beta_slow"),
)


def write_gguf(
    path: Path, config: Config, tensors: Tensors, tensor_type: str = "F32", others: Mapping[str, str] | None = None
) -> Path:
    """Writes the file; matrices take `tensor_type`, norms and biases stay float32 as llama.cpp keeps them. Returns the path.

    `others` are the types of matrices whose names end so.
    """
    family = FAMILIES[config["model_type"]]
    layers = next(config[key] for key in ("num_hidden_layers", "n_layer", "n_layers") if key in config)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.arch])
    older = older_spelling(config)
    writer.add_block_count(layers)
    _add_metadata(writer, older)
    family.metadata(writer, older)
    _add_tokenizer(writer, config)
    names = gguf.get_tensor_name_map(family.arch, layers)
    for name, values in family.tensors(older, tensors).items():
        stored_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored_name is not None, f"llama.cpp knows no tensor {name}"
        kinds = [kind for end, kind in (others or {}).items() if stored_name.endswith(end)]
        _add_tensor(writer, stored_name, values, kinds[0] if kinds else tensor_type)
    for name, values in family.more(older).items():
        _add_tensor(writer, name, values, tensor_type)
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


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: NDArray[np.float32], tensor_type: str) -> None:
    kind = GGMLQuantizationType[tensor_type if values.ndim == 2 else "F32"]
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _add_metadata(writer: gguf.GGUFWriter, config: Config) -> None:
    for keys, method in _METADATA:
        value: Any = next((config[key] for key in keys if config.get(key) is not None), None)
        if value is not None:
            getattr(writer, method)(value)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        for key, method in _YARN:
            if scaling.get(key) is not None:
                getattr(writer, method)(scaling[key])


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
