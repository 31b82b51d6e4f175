"""Raw keys of mixtures of experts become a MoeConfig, or one error that lists everything that stands in the way."""

from __future__ import annotations

from typing import Any

import pytest

from edgelm.errors import UnsupportedConfig
from edgelm_export.config import MoeConfig
from edgelm_export.config_reader import ConfigReader
from edgelm_export.read_moe_config import SPELLINGS, read_moe

PLAIN = {"hidden_act": "silu", "intermediate_size": 96, "num_experts": 8, "num_experts_per_tok": 2}


def read(layers: int = 6, **values: Any) -> MoeConfig:
    reader = ConfigReader({**PLAIN, **values})
    reader.rename(SPELLINGS)
    found = read_moe(reader, layers)
    reader.finish()
    return found


def sparse(layers: int = 6, **values: Any) -> str:
    return "".join("x" if has else "." for has in read(layers, **values).sparse_layers)


def test_mixtral_says_little() -> None:
    raw = {**PLAIN, "num_local_experts": 4, "norm_topk_prob": True}
    del raw["num_experts"]
    reader = ConfigReader(raw)
    reader.rename(SPELLINGS)
    expected = MoeConfig(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=96, sparse_layers=(True, True, True)
    )
    assert read_moe(reader, 3) == expected


def test_qwen_has_a_shared_expert_and_dense_layers() -> None:
    found = read(moe_intermediate_size=48, shared_expert_intermediate_size=64, shared_gate=True, norm_topk_prob=False)
    assert (found.moe_intermediate_size, found.shared_intermediate_size, found.shared_gate) == (48, 64, True)
    assert not found.norm_topk_prob
    assert sparse(decoder_sparse_step=2) == ".x.x.x"
    assert sparse(mlp_only_layers=[0, 3]) == ".xx.xx"
    assert sparse(decoder_sparse_step=2, mlp_only_layers=[1]) == "...x.x"


def test_deepseek_limits_groups_and_starts_dense() -> None:
    third: dict[str, Any] = dict(
        n_routed_experts=8, n_group=4, topk_group=2, topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=True,
        n_shared_experts=2, moe_intermediate_size=32, routed_scaling_factor=2.5, first_k_dense_replace=2, num_experts=None,
    )  # fmt: skip
    found = read(**{key: value for key, value in third.items() if value is not None})
    assert (found.n_group, found.topk_group, found.group_score) == (4, 2, "top2")
    assert (found.scoring_func, found.score_correction, found.routed_scaling_factor) == ("sigmoid", True, 2.5)
    assert (found.shared_intermediate_size, found.sparse_layers) == (64, (False, False, True, True, True, True))
    second = read(n_group=4, topk_group=2, topk_method="group_limited_greedy")
    assert (second.group_score, second.n_group, second.score_correction) == ("max", 4, False)
    assert read(n_group=4, topk_group=2, topk_method="greedy").n_group == 1
    assert read(n_group=None, topk_group=None).n_group == 1


def test_ernie_says_where_experts_begin_and_end() -> None:
    assert sparse(moe_layer_start_index=1, moe_layer_end_index=-1) == ".xxxxx"
    assert sparse(moe_layer_start_index=1, moe_layer_end_index=3) == ".xxx.."
    assert sparse(moe_layer_start_index=1, moe_layer_interval=2) == ".x.x.x"


def test_gpt_oss_clamps() -> None:
    found = read(swiglu_alpha=1.702, swiglu_beta=1.0, swiglu_limit=7.0, expert_bias=True, router_bias=True)
    assert (found.swiglu_alpha, found.swiglu_beta, found.swiglu_limit) == (1.702, 1.0, 7.0)
    assert found.expert_bias
    assert found.router_bias


def test_phi_mixes_two_near_experts() -> None:
    found = read(scoring_func="sparsemixer", router_jitter_noise=0.02)
    assert (found.scoring_func, found.router_jitter_noise) == ("sparsemixer", 0.02)
    assert read(router_jitter_noise=0.02).router_jitter_noise == 0  # elsewhere it is noise of the training


def test_all_problems_are_listed_at_once() -> None:
    wrong: dict[str, Any] = dict(
        hidden_act="gelu", scoring_func="tanh", topk_method="best", num_experts_per_tok=9, routed_scaling_factor="x",
        mlp_only_layers=[7],
    )  # fmt: skip
    with pytest.raises(UnsupportedConfig) as caught:
        read(**wrong)
    for part in (
        "hidden_act 'gelu' is not supported (known: silu, swish)",
        "scoring_func 'tanh' is not supported (known: sigmoid, softmax, sparsemixer)",
        "topk_method 'best' is not supported (known: greedy, group_limited_greedy, noaux_tc)",
        "num_experts_per_tok 9 is more than num_experts 8",
        "routed_scaling_factor is 'x'",
        "mlp_only_layers [7] must list layers from 0 to 5",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_experts": None}, "num_experts is missing"),
        ({"scoring_func": "sparsemixer", "num_experts_per_tok": 3}, "num_experts_per_tok 3 .* sparse mixer"),
        ({"n_group": 3, "topk_group": 1}, "n_group 3 groups is no choice among num_experts 8"),
        ({"n_group": 2, "topk_group": 3}, "topk_group 3 of n_group 2"),
        ({"n_group": 8, "topk_group": 1}, "hold fewer experts than num_experts_per_tok 2"),
        ({"n_group": 8, "topk_group": 4}, "leaves one of num_experts 8 a group"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        read(**{"topk_method": "noaux_tc", **values})
