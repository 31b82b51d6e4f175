"""What may differ from one model with latent attention to the next: columns of partial configs, as in moe_tables.py."""

from __future__ import annotations

from collections.abc import Mapping

from tests.architectures.encoder_tables import Column, each
from tests.architectures.random_configs import ROPE_SCALINGS, Config

_BASE: Config = {
    "hidden_size": 48,
    "hidden_act": "silu",
    "max_position_embeddings": 640,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
_YARN: Config = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 80, "beta_fast": 32, "beta_slow": 1}


def _heads(*counts: int) -> Column:
    return tuple({"num_attention_heads": count, "num_key_value_heads": count} for count in counts)


def _ranks(*rows: tuple[int | None, int, int, int, int]) -> Column:
    names = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return tuple(dict(zip(names, row, strict=True)) for row in rows)


def _ropes(*scalings: Config | None) -> Column:
    return tuple(
        {"rope_theta": theta, "rope_scaling": scaling}
        for theta, scaling in zip((10000.0, 50000.0, 20000.0, 500000), scalings, strict=False)
    )


_COMMON: Mapping[str, Column] = {
    "heads": _heads(2, 4, 1, 3),
    "layers": each("num_hidden_layers", 2, 1, 3),
    "vocabulary": each("vocab_size", 128, 104, 161),
    "epsilon": each("rms_norm_eps", 1e-2, 1e-6, 1e-3),
    "inner": each("intermediate_size", 40, 77),
    "experts": each("moe_intermediate_size", 16, 40),
    "shared": each("n_shared_experts", 1, 2),
    "scale": each("routed_scaling_factor", 1.5, 1.0),
    "dense": each("first_k_dense_replace", 1, 0, 3),
    "tied": each("tie_word_embeddings", False, True),
}

TABLES: dict[str, Mapping[str, Column]] = {
    "deepseek_v2": {
        "architecture": ({**_BASE, "architectures": ["DeepseekV2ForCausalLM"]},),
        **_COMMON,
        "ranks": _ranks((None, 24, 16, 8, 16), (20, 40, 8, 16, 24), (24, 16, 12, 8, 10), (None, 48, 24, 16, 16)),
        # With mscale_all_dim transformers 4 leaves out what DeepSeek's code and transformers 5 put on the scores.
        "ropes": _ropes(None, _YARN, ROPE_SCALINGS["linear"]),
        "counts": (
            {"n_routed_experts": 4, "num_experts_per_tok": 2, "topk_method": "greedy"},
            {
                "n_routed_experts": 6,
                "num_experts_per_tok": 2,
                "topk_method": "group_limited_greedy",
                "n_group": 3,
                "topk_group": 2,
            },
        ),
    },
    "deepseek_v3": {
        "architecture": ({**_BASE, "architectures": ["DeepseekV3ForCausalLM"]},),
        **_COMMON,
        "ranks": _ranks((24, 24, 16, 8, 16), (20, 40, 8, 16, 24), (24, 16, 12, 8, 10), (18, 48, 24, 16, 16)),
        "ropes": _ropes(
            None,
            {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
            {**_YARN, "mscale": 0.7, "mscale_all_dim": 1.2},
            _YARN,
        ),
        "order": ({}, *each("rope_interleave", False, True)),
        "bias": each("attention_bias", False, True),
        "normalized": ({}, *each("norm_topk_prob", False, True)),
        "counts": (
            {"n_routed_experts": 6, "num_experts_per_tok": 3, "n_group": 3, "topk_group": 2},
            {"n_routed_experts": 4, "num_experts_per_tok": 1, "n_group": 2, "topk_group": 1},
            {"n_routed_experts": 5, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
        ),
    },
}


def latent_base(model_type: str) -> Config:
    """The first config of a type's table."""
    return {"model_type": model_type} | {
        key: value for column in TABLES[model_type].values() for key, value in column[0].items()
    }
