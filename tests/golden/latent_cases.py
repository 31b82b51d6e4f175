"""The table of goldens with latent attention: a V2 without a latent of queries, a V3 with YaRN's two factors, both with experts."""

from __future__ import annotations

from tests.architectures.latent_tables import latent_base
from tests.golden.golden import Golden

_YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 80, "beta_fast": 32, "beta_slow": 1}


def latent_cases() -> tuple[Golden, ...]:
    """Every case."""
    v2 = latent_base("deepseek_v2") | {
        "torch_dtype": "bfloat16",
        "topk_method": "group_limited_greedy",
        "n_routed_experts": 6,
        "n_group": 3,
        "topk_group": 1,
        "rope_scaling": {**_YARN, "mscale": 0.7, "mscale_all_dim": 0.9},
    }
    v3 = latent_base("deepseek_v3") | {
        "torch_dtype": "bfloat16",
        "rope_scaling": {**_YARN, "mscale": 1.4, "mscale_all_dim": 0.6},
        "num_nextn_predict_layers": 1,
    }
    other = {
        "rms_norm_eps": {"rms_norm_eps": 2e-3},
        "rope_theta": {"rope_theta": 50000.0},
        "scale": {"routed_scaling_factor": 1.0},
    }
    sharper = {"sharpness": {"rope_scaling": {**v3["rope_scaling"], "mscale_all_dim": 1.4}}}
    return (
        Golden("deepseek_v2", v2, {**other, "groups": {"topk_group": 3}}),
        Golden(
            "deepseek_v3", v3, {**other, **sharper, "groups": {"topk_group": 1}, "order": {"rope_interleave": False}}
        ),
    )
