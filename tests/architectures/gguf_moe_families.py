"""How llama.cpp's converter stores mixtures of experts, as gguf_families.py says it of others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np
from gguf import MODEL_ARCH, ExpertGatingFuncType, GGUFWriter

from tests.architectures.gguf_families import Family, in_pairs, rope_dimensions
from tests.architectures.random_checkpoints import Tensors
from tests.architectures.random_configs import Config

Metadata = Callable[[GGUFWriter, Config], None]

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")


def _stacked(config: Config, tensors: Tensors) -> Tensors:
    """One tensor for all experts of a layer, under the name that the converter gives to it; a gate of one row becomes a vector."""
    result: Tensors = {}
    stacks: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for name, values in tensors.items():
        if found := _EXPERT.fullmatch(name):
            stacks[f"{found[1]}.{found[3]}.weight"][int(found[2])] = values
        elif name.endswith("shared_expert_gate.weight"):
            result[name] = values[0]
        else:
            result[name] = values
    for name, experts in stacks.items():
        result[name] = np.stack([experts[e] for e in range(len(experts))])
    return result


def _counts(experts: str, taken: str = "num_experts_per_tok") -> Metadata:
    def write(writer: GGUFWriter, config: Config) -> None:
        writer.add_expert_count(config[experts])
        writer.add_expert_used_count(config.get(taken, 2))
        if "moe_intermediate_size" in config:
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"])

    return write


def _mixtral(writer: GGUFWriter, config: Config) -> None:
    _counts("num_local_experts")(writer, config)
    rope_dimensions(writer, config)


def _granite(writer: GGUFWriter, config: Config) -> None:
    _counts("num_local_experts")(writer, config)
    writer.add_embedding_scale(config.get("embedding_multiplier", 1.0))
    writer.add_residual_scale(config.get("residual_multiplier", 1.0))
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_logit_scale(config.get("logits_scaling", 1.0))


def _granite_tensors(config: Config, tensors: Tensors) -> Tensors:
    """Gate and up of all experts apart, and Llama's order of rotary rows."""
    result: Tensors = {}
    for name, values in in_pairs(config, tensors).items():
        if name.endswith("input_linear.weight"):
            layer = name.removesuffix("block_sparse_moe.input_linear.weight")
            gate, up = np.split(values, 2, axis=1)
            result |= {
                f"{layer}block_sparse_moe.experts.w1.weight": gate,
                f"{layer}block_sparse_moe.experts.w3.weight": up,
            }
        else:
            result[name] = values
    return result


def _glm(writer: GGUFWriter, config: Config) -> None:
    _counts("n_routed_experts")(writer, config)
    writer.add_rope_dimension_count(int(config["head_dim"] * config.get("partial_rotary_factor", 0.5)))
    writer.add_expert_shared_count(config.get("n_shared_experts", 1))
    writer.add_leading_dense_block_count(config.get("first_k_dense_replace", 1))
    writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_scale(config.get("routed_scaling_factor", 1.0))
    writer.add_expert_weights_norm(config.get("norm_topk_prob", True))
    writer.add_expert_group_count(config.get("n_group", 1))
    writer.add_expert_group_used_count(config.get("topk_group", 1))


def _glm_tensors(config: Config, tensors: Tensors) -> Tensors:
    renamed = {
        name.replace("gate.e_score_correction_bias", "gate.e_score_correction.bias"): values
        for name, values in tensors.items()
    }
    return _stacked(config, renamed)


def _ernie(writer: GGUFWriter, config: Config) -> None:
    _counts("moe_num_experts", "moe_k")(writer, config)
    writer.add_interleave_moe_layer_step(config.get("moe_layer_interval", 1))
    writer.add_leading_dense_block_count(config.get("moe_layer_start_index", 1))


def _ernie_tensors(config: Config, tensors: Tensors) -> Tensors:
    renamed = {
        name.replace("moe_statics.e_score_correction_bias", "moe_statics.e_score_correction.bias"): values[0]
        if "moe_statics" in name
        else values
        for name, values in tensors.items()
    }
    return _stacked(config, renamed)


def _gpt_oss_tensors(config: Config, tensors: Tensors) -> Tensors:
    """Rows of gate and up, which take turns, apart; matrices turned; sinks a weight."""
    result: Tensors = {}
    for name, values in tensors.items():
        if name.endswith(("gate_up_proj", "gate_up_proj_bias")):
            leaf = "bias" if name.endswith("bias") else "weight"
            rows = values if leaf == "bias" else values.transpose(0, 2, 1)
            scope = name[: name.index("gate_up_proj")]
            result |= {f"{scope}gate_proj.{leaf}": rows[:, 0::2], f"{scope}up_proj.{leaf}": rows[:, 1::2]}
        elif name.endswith(("experts.down_proj", "experts.down_proj_bias")):
            bias = name.endswith("_bias")
            result[f"{name.removesuffix('_bias')}.{'bias' if bias else 'weight'}"] = (
                values if bias else values.transpose(0, 2, 1)
            )
        elif name.endswith("sinks"):
            result[f"{name}.weight"] = values
        else:
            result[name] = values
    return {name: np.ascontiguousarray(values) for name, values in result.items()}


def _phimoe_factors(config: Config) -> Tensors:
    scaling = config.get("rope_scaling") or {}
    return {
        f"rope_factors_{reach}.weight": np.array(scaling[f"{reach}_factor"], np.float32)
        for reach in ("long", "short")
        if scaling
    }


def _phimoe(writer: GGUFWriter, config: Config) -> None:
    _counts("num_local_experts")(writer, config)
    if scaling := config.get("rope_scaling"):
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors(scaling["short_mscale"])


def _gpt_oss(writer: GGUFWriter, config: Config) -> None:
    _counts("num_local_experts")(writer, config)
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_sliding_window(config["sliding_window"])


MOE_FAMILIES: Mapping[str, Family] = {
    "mixtral": Family(MODEL_ARCH.LLAMA, _mixtral, lambda c, tensors: _stacked(c, in_pairs(c, tensors))),
    "qwen2_moe": Family(MODEL_ARCH.QWEN2MOE, _counts("num_experts"), _stacked),
    "qwen3_moe": Family(MODEL_ARCH.QWEN3MOE, _counts("num_experts"), _stacked),
    "olmoe": Family(MODEL_ARCH.OLMOE, _counts("num_experts"), _stacked),
    "granitemoe": Family(MODEL_ARCH.GRANITE_MOE, _granite, _granite_tensors),
    "glm4_moe": Family(MODEL_ARCH.GLM4_MOE, _glm, _glm_tensors),
    "ernie4_5_moe": Family(MODEL_ARCH.ERNIE4_5_MOE, _ernie, _ernie_tensors),
    "phimoe": Family(MODEL_ARCH.PHIMOE, _phimoe, _stacked, _phimoe_factors),
    "gpt_oss": Family(MODEL_ARCH.GPT_OSS, _gpt_oss, _gpt_oss_tensors),
}
