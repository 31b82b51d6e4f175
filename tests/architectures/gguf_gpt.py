"""What llama.cpp's converter does with the GPT lineage, beside gguf_families.py, and configurations to try."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter
from numpy.typing import NDArray

from tests.architectures.gguf_families import Family, nothing, rope_dimensions
from tests.architectures.random_checkpoints import Tensors
from tests.architectures.random_configs import Config

Array = NDArray[np.float32]


def _four_times(writer: GGUFWriter, config: Config) -> None:
    """The converter takes MLPs of these to be four times as wide as the model."""
    writer.add_feed_forward_length(4 * (config.get("n_embd") or config.get("n_embed") or config["d_model"]))


def _one_key_head(writer: GGUFWriter, config: Config) -> None:
    _four_times(writer, config)
    writer.add_head_count_kv(1)


def _neox(writer: GGUFWriter, config: Config) -> None:
    head = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(config["rotary_pct"] * head))
    writer.add_parallel_residual(config.get("use_parallel_residual", True))


def _bloom(writer: GGUFWriter, config: Config) -> None:
    _four_times(writer, config)
    writer.add_head_count_kv(config["n_head"])


def _mpt(writer: GGUFWriter, config: Config) -> None:
    _four_times(writer, config)
    attention = config["attn_config"]
    if attention.get("clip_qkv"):
        writer.add_clamp_kqv(attention["clip_qkv"])
    writer.add_max_alibi_bias(float(attention.get("alibi_bias_max", 8)))


def _falcon(writer: GGUFWriter, config: Config) -> None:
    writer.add_tensor_data_layout("jploski")
    writer.add_feed_forward_length(4 * config["hidden_size"])
    writer.add_head_count_kv(config.get("num_kv_heads") or 1)


def _stablelm(writer: GGUFWriter, config: Config) -> None:
    rope_dimensions(writer, config)
    writer.add_parallel_residual(config.get("use_parallel_residual", True))


def _nemotron(writer: GGUFWriter, config: Config) -> None:
    rope_dimensions(writer, config)
    writer.add_layer_norm_eps(config["norm_eps"])


def _turned(config: Config, tensors: Tensors) -> Tensors:
    """GPT-2's matrices as others have them."""
    ends = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    return {name: np.ascontiguousarray(x.T) if name.endswith(ends) else x for name, x in tensors.items()}


def _by_kind(tensors: Tensors, groups: int, heads: int) -> Tensors:
    """Fused projections with all queries first, then all keys, then all values, instead of group after group."""

    def stored(x: Array) -> Array:
        head_dim = x.shape[0] // (heads + 2 * groups)
        parts = x.reshape(groups, heads // groups + 2, head_dim, *x.shape[1:])
        kinds = (parts[:, :-2], parts[:, -2:-1], parts[:, -1:])
        return np.concatenate([kind.reshape(-1, *x.shape[1:]) for kind in kinds])

    return {name: stored(x) if "query_key_value" in name else x for name, x in tensors.items()}


def _neox_tensors(config: Config, tensors: Tensors) -> Tensors:
    heads = config["num_attention_heads"]
    return _by_kind(tensors, heads, heads)


def _bloom_tensors(config: Config, tensors: Tensors) -> Tensors:
    bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    return _by_kind(bare, config["n_head"], config["n_head"])


def _falcon_tensors(config: Config, tensors: Tensors) -> Tensors:
    return _by_kind(tensors, config.get("num_kv_heads") or 1, config["num_attention_heads"])


def _norms_stacked(config: Config, tensors: Tensors) -> Tensors:
    """The norms of StableLM's heads as rows of one matrix."""
    stacked: dict[str, list[Array]] = {}
    others: Tensors = {}
    for name, x in tensors.items():  # in the order of their numbers, as the checkpoint asks for them
        together = re.sub(r"layernorm\.norms\.\d+\.", "layernorm.", name)
        if together == name:
            others[name] = x
        else:
            stacked.setdefault(together, []).append(x)
    return others | {name: np.stack(rows) for name, rows in stacked.items()}


def _norms_plus_one(config: Config, tensors: Tensors) -> Tensors:
    """Nemotron's norms as others have them."""
    return {name: x + 1 if name.endswith("norm.weight") else x for name, x in tensors.items()}


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(MODEL_ARCH.GPT2, _four_times, _turned),
    "gpt_bigcode": Family(MODEL_ARCH.STARCODER, _one_key_head),
    "gpt_neox": Family(MODEL_ARCH.GPTNEOX, _neox, _neox_tensors),
    "bloom": Family(MODEL_ARCH.BLOOM, _bloom, _bloom_tensors),
    "mpt": Family(MODEL_ARCH.MPT, _mpt),
    "falcon": Family(MODEL_ARCH.FALCON, _falcon, _falcon_tensors),
    "phi": Family(MODEL_ARCH.PHI2, rope_dimensions),
    "starcoder2": Family(MODEL_ARCH.STARCODER2, nothing),
    "stablelm": Family(MODEL_ARCH.STABLELM, _stablelm, _norms_stacked),
    "nemotron": Family(MODEL_ARCH.NEMOTRON, _nemotron, _norms_plus_one),
}

_ENDS: Config = {"vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}
_FIRST: Config = {
    **_ENDS,
    "n_embd": 48,
    "n_head": 3,
    "n_layer": 2,
    "n_positions": 64,
    "n_ctx": 64,
    "layer_norm_epsilon": 1e-5,
}
_LATER: Config = {
    **_ENDS,
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
_GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **_FIRST}
_NEOX = {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], **_LATER, "layer_norm_eps": 1e-3}
_BLOOM = {**_ENDS, "n_embed": 48, "n_layer": 2, "n_head": 3, "seq_length": 64, "layer_norm_epsilon": 1e-5}
_MPT = {
    "model_type": "mpt",
    "architectures": ["MptForCausalLM"],
    **_ENDS,
    "d_model": 48,
    "n_heads": 3,
    "n_layers": 2,
} | {
    "max_seq_len": 64,
    "layer_norm_epsilon": 1e-5,
}
_FALCON = {
    "model_type": "falcon",
    "architectures": ["FalconForCausalLM"],
    **{key: value for key, value in _LATER.items() if key not in ("intermediate_size", "rope_theta")},
    "max_position_embeddings": 2048,
    "layer_norm_epsilon": 1e-5,
}
_GROUPS = {**_FALCON, "num_attention_heads": 6, "num_kv_heads": 2, "new_decoder_architecture": True}
_PHI = {"model_type": "phi", "architectures": ["PhiForCausalLM"], **_LATER, "layer_norm_eps": 1e-5}
_STARCODER2 = {"model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], **_LATER, "norm_epsilon": 1e-3}
_STABLELM = {"model_type": "stablelm", "architectures": ["StableLmForCausalLM"], **_LATER, "layer_norm_eps": 1e-5}
_NEMOTRON = {"model_type": "nemotron", "architectures": ["NemotronForCausalLM"], **_LATER, "norm_eps": 1e-3}

CONFIGS: Mapping[str, Config] = {
    "gpt2": _GPT2,
    "gpt2-untied": {**_GPT2, "tie_word_embeddings": False},
    "gpt_bigcode": {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"], **_FIRST},
    "gpt_neox": {**_NEOX, "rotary_pct": 0.25},
    "gpt_neox-sequential": {**_NEOX, "rotary_pct": 1.0, "use_parallel_residual": False},
    "bloom": {"model_type": "bloom", "architectures": ["BloomForCausalLM"], **_BLOOM},
    "mpt": {**_MPT, "attn_config": {"clip_qkv": 0.5}},
    "mpt-other-slopes": {**_MPT, "attn_config": {"clip_qkv": None, "alibi_bias_max": 16}},
    "falcon": {**_FALCON, "multi_query": True, "parallel_attn": True},
    "falcon-groups": _GROUPS,
    "falcon-groups-one-norm": {**_GROUPS, "num_ln_in_parallel_attn": 1},
    "phi": {**_PHI, "partial_rotary_factor": 0.5},
    "starcoder2": {**_STARCODER2, "num_key_value_heads": 1},
    "starcoder2-untied": {**_STARCODER2, "num_key_value_heads": 3, "use_bias": False, "tie_word_embeddings": False},
    "stablelm": {**_STABLELM, "num_key_value_heads": 1, "partial_rotary_factor": 0.25, "use_parallel_residual": False},
    "stablelm-parallel": {**_STABLELM, "num_key_value_heads": 1, "partial_rotary_factor": 0.5, "use_qkv_bias": True}
    | {"use_parallel_residual": True, "qk_layernorm": True},
    "nemotron": {**_NEMOTRON, "num_key_value_heads": 1, "partial_rotary_factor": 0.5, "head_dim": 16},
}
