"""Raw keys of mixtures of experts in, MoeConfig out. Families spell the same facts in several ways; this is the only place that knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgelm_export.config import MixtureConfig, MoeConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_decoder_config import decoder_values, has_windows
from edgelm_export.read_llama_kin_config import granite_scales
from edgelm_export.read_rope import rope_values

# Families' own words -> the usual ones, for `ConfigReader.rename`.
SPELLINGS = {
    "num_local_experts": "num_experts",
    "n_routed_experts": "num_experts",
    "moe_num_experts": "num_experts",
    "moe_k": "num_experts_per_tok",
    "moe_num_shared_experts": "n_shared_experts",
    "use_qk_norm": "qk_norm",
}

# Ways to choose experts: key `topk_method` of DeepSeek's configs -> what a group is worth.
_METHODS = {"greedy": None, "group_limited_greedy": "max", "noaux_tc": "top2"}
_SCORINGS = {"softmax": None, "sigmoid": None, "sparsemixer": None}

# Experts' fused kernel has gates with SiLU only.
_ACTIVATIONS = {"silu": None, "swish": None}


def read_mixture_config(reader: ConfigReader) -> MixtureConfig:
    """The config of a decoder with experts; problems are left with the reader."""
    reader.rename(SPELLINGS)
    for key, only in (("clip_qkv", None), ("use_bias", False)):
        reader.require(key, only)
    values = decoder_values(reader)
    if reader.flag("windows_by_layer") and reader.flag("use_sliding_window") and reader.get("layer_types") is None:
        reader.problem(
            "use_sliding_window is true without layer_types, and transformers 4 and 5 give windows to different layers; "
            "add layer_types, or set it to false and stay within the window"
        )
    if reader.flag("windows_everywhere"):
        window = reader.size("sliding_window") if has_windows(reader) else None
        hides = window is not None and window < values["context_length"]
        values["sliding_windows"] = (window if hides else None,) * values["num_hidden_layers"]
    return MixtureConfig(
        **values,
        moe=read_moe(reader, values["num_hidden_layers"]),
        lm_head_bias=reader.flag("lm_head_bias"),
        num_nextn_predict_layers=reader.size("num_nextn_predict_layers", 0, least=0),
    )


def read_granite_mixture_config(reader: ConfigReader) -> MixtureConfig:
    """The same with Granite's multipliers."""
    return replace(read_mixture_config(reader), **granite_scales(reader))


def read_phimoe_config(reader: ConfigReader) -> MixtureConfig:
    """The same; LongRoPE's factor of cosines and sines goes by two names, one for short and one for long contexts."""
    config = read_mixture_config(reader)
    values = rope_values(reader)
    short, long = values.get("short_mscale"), values.get("long_mscale")
    if short is None and long is None:
        return config
    if short != long:
        reader.problem(
            f"short_mscale {short!r} differs from long_mscale {long!r}; only one for all contexts is supported"
        )
    factor = reader.number("short_mscale", source=values)
    ropes = tuple(None if rope is None else replace(rope, attention_factor=factor) for rope in config.ropes)
    return replace(config, ropes=ropes)


def read_gpt_oss_config(reader: ConfigReader) -> MixtureConfig:
    """The same; where the config does not name the layers' kinds, every other one is local, the first among them."""
    config = read_mixture_config(reader)
    if reader.get("layer_types") is not None:
        return config
    windows = tuple(window if i % 2 == 0 else None for i, window in enumerate(config.sliding_windows))
    return replace(config, sliding_windows=windows)


def read_moe(reader: ConfigReader, layers: int) -> MoeConfig:
    """The experts of a model of so many layers; problems are left with the reader."""
    reader.one_of("hidden_act", _ACTIVATIONS)
    inner = reader.size("moe_intermediate_size", reader.size("intermediate_size"))
    limit = reader.get("swiglu_limit")
    method = reader.one_of("topk_method", _METHODS, "greedy")
    values: dict[str, Any] = dict(
        num_experts=reader.size("num_experts"),
        num_experts_per_tok=reader.size("num_experts_per_tok"),
        moe_intermediate_size=inner,
        scoring_func=reader.one_of("scoring_func", _SCORINGS, "softmax"),
        norm_topk_prob=reader.flag("norm_topk_prob"),
        routed_scaling_factor=reader.number("routed_scaling_factor", 1.0),
        n_group=reader.size("n_group", 1) if _METHODS[method] else 1,
        topk_group=reader.size("topk_group", 1) if _METHODS[method] else 1,
        group_score=_METHODS[method] or "max",
        score_correction=reader.flag("score_correction", method == "noaux_tc"),
        router_bias=reader.flag("router_bias"),
        router_jitter_noise=reader.number("router_jitter_noise", 0.01) if _is_mixer(reader) else 0.0,
        expert_bias=reader.flag("expert_bias"),
        swiglu_alpha=reader.number("swiglu_alpha", 1.0),
        swiglu_beta=float(reader.get("swiglu_beta") or 0.0),
        swiglu_limit=None if limit is None else reader.number("swiglu_limit"),
        shared_intermediate_size=_shared_size(reader, inner),
        shared_gate=reader.flag("shared_gate"),
        sparse_layers=_sparse_layers(reader, layers),
    )
    _check(reader, values)
    return MoeConfig(**values)


def _is_mixer(reader: ConfigReader) -> bool:
    return reader.get("scoring_func") == "sparsemixer"


def _shared_size(reader: ConfigReader, inner: int) -> int:
    """Width of what all tokens share: its own key, or so many experts side by side."""
    if reader.get("shared_expert_intermediate_size") is not None:
        return reader.size("shared_expert_intermediate_size", least=0)
    return reader.size("n_shared_experts", 0, least=0) * inner


def _sparse_layers(reader: ConfigReader, layers: int) -> tuple[bool, ...]:
    """Which layers have experts: all but those that a family's keys leave out.

    Qwen: every `decoder_sparse_step`-th, and none of `mlp_only_layers`. DeepSeek and GLM: from `first_k_dense_replace` on, every
    `moe_layer_freq`-th. Ernie: every `moe_layer_interval`-th from `moe_layer_start_index` to `moe_layer_end_index`.
    """
    step, dense = reader.size("decoder_sparse_step", 1), reader.get("mlp_only_layers") or []
    first, frequency = reader.size("first_k_dense_replace", 0, least=0), reader.size("moe_layer_freq", 1)
    start, interval = reader.size("moe_layer_start_index", 0, least=0), reader.size("moe_layer_interval", 1)
    end = reader.get("moe_layer_end_index")
    last = layers - 1 if end in (None, -1) else reader.size("moe_layer_end_index", least=0)
    if not isinstance(dense, list) or not all(isinstance(i, int) and 0 <= i < layers for i in dense):
        reader.problem(f"mlp_only_layers {dense!r} must list layers from 0 to {layers - 1}")
        dense = []
    return tuple(
        (i + 1) % step == 0
        and i not in dense
        and i >= first
        and i % frequency == 0
        and start <= i <= last
        and (i + 1) % interval == 0
        for i in range(layers)
    )


def _check(reader: ConfigReader, values: dict[str, Any]) -> None:
    experts, taken = values["num_experts"], values["num_experts_per_tok"]
    groups, kept = values["n_group"], values["topk_group"]
    if taken > experts:
        reader.problem(f"num_experts_per_tok {taken} is more than num_experts {experts}")
    if values["scoring_func"] == "sparsemixer" and taken != 2:
        reader.problem(f"num_experts_per_tok {taken} is not supported with a sparse mixer (only 2)")
    if kept > groups or experts % groups:
        reader.problem(f"topk_group {kept} of n_group {groups} groups is no choice among num_experts {experts}")
    elif kept * (experts // groups) < taken:
        reader.problem(f"topk_group {kept} groups hold fewer experts than num_experts_per_tok {taken}")
    elif values["group_score"] == "top2" and groups > 1 and experts // groups < 2:
        reader.problem(f"n_group {groups} leaves one of num_experts {experts} a group, and a group counts its best two")
