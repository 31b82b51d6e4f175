"""The table of goldens of mixtures of experts: each setting of a router is in one of them, and changes the logits."""

from __future__ import annotations

from typing import Any

from tests.architectures.moe_tables import moe_base
from tests.architectures.random_configs import Config, rope_keys
from tests.golden.golden import Golden

_OTHER_EPS = {"rms_norm_eps": {"rms_norm_eps": 2e-3}}
_OTHER_THETA = {"rope_theta": {"rope_theta": 50000.0}}
_SMALL: Config = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-2,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def _case(model_type: str, changes: dict[str, Config], **values: Any) -> Golden:
    return Golden(model_type, moe_base(model_type, **{**_SMALL, **values}), {**_OTHER_EPS, **changes})


def moe_cases() -> tuple[Golden, ...]:
    """Every case."""
    theta = rope_keys("default", 10000.0, "rope_theta")
    four = {"num_experts": 4, "num_experts_per_tok": 2}
    groups = {"n_routed_experts": 6, "num_experts_per_tok": 3, "n_group": 3, "topk_group": 2}
    multipliers = {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.0,
    }
    yarn = {"rope_type": "yarn", "factor": 8.0, "truncate": False, "original_max_position_embeddings": 80}
    factors = {"short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0, 4.0], "long_factor": [2.0] * 8}
    longrope = {"type": "longrope", "short_mscale": 1.24, "long_mscale": 1.24, "original_max_position_embeddings": 320}
    return (
        _case(
            "mixtral",
            {**_OTHER_THETA, "window": {"sliding_window": 13}, "one expert": {"num_experts_per_tok": 1}},
            intermediate_size=40,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=12,
            **theta,
        ),
        _case(
            "qwen2_moe",
            {**_OTHER_THETA, "normalization": {"norm_topk_prob": True}},
            intermediate_size=40,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=40,
            mlp_only_layers=[0],
            **four,
            **theta,
        ),
        _case(
            "qwen3_moe",
            {**_OTHER_THETA, "normalization": {"norm_topk_prob": False}},
            intermediate_size=40,
            moe_intermediate_size=24,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            use_sliding_window=False,
            sliding_window=None,
            max_window_layers=2,
            **four,
            **theta,
        ),
        _case(
            "olmoe",
            {**_OTHER_THETA, "normalization": {"norm_topk_prob": True}},
            intermediate_size=24,
            clip_qkv=None,
            **four,
            **theta,
        ),
        _case(
            "granitemoe",
            {**_OTHER_THETA, **{key: {key: 1.0} for key in multipliers}},
            intermediate_size=24,
            num_local_experts=4,
            num_experts_per_tok=2,
            **multipliers,
            **theta,
        ),
        _case(
            "phimoe",
            {
                "mscale": {"rope_scaling": {**longrope, **factors, "short_mscale": 1.0}},
                "near": {"router_jitter_noise": 0.05},
            },
            intermediate_size=24,
            num_local_experts=4,
            router_jitter_noise=0.4,
            attention_bias=True,
            lm_head_bias=True,
            rope_theta=10000.0,
            rope_scaling={**longrope, **factors},
        ),
        _case(
            "gpt_oss",
            {"window": {"sliding_window": 13}, "rope scaling": {"rope_scaling": {**yarn, "factor": 4.0}}},
            intermediate_size=24,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=12,
            rope_theta=150000.0,
            rope_scaling=yarn,
        ),
        _case(
            "glm4_moe",
            {
                **_OTHER_THETA,
                "scale": {"routed_scaling_factor": 1.0},
                "groups": {"topk_group": 3},
                "part": {"partial_rotary_factor": 1.0},
            },
            intermediate_size=40,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            routed_scaling_factor=2.5,
            n_shared_experts=1,
            use_qk_norm=True,
            attention_bias=True,
            **groups,
            **theta,
        ),
        _case(
            "ernie4_5_moe",
            {**_OTHER_THETA, "one expert": {"moe_k": 1}},
            intermediate_size=40,
            moe_intermediate_size=24,
            moe_num_experts=4,
            moe_k=2,
            moe_num_shared_experts=1,
            moe_layer_start_index=0,
            **theta,
        ),
    )
