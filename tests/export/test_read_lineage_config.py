"""Raw configs of Llama's descendants: what each family says of its layers, and everything unsupported at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import UnsupportedConfig
from edgelm_export.architectures import REGISTRY
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.config import RopeConfig
from edgelm_export.read_config import model_type_of, read_config

RAW: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
FULL, SLIDING = "full_attention", "sliding_attention"


def read(model_type: str, **changes: Any) -> Any:
    raw = {key: value for key, value in ({"model_type": model_type} | RAW | changes).items() if value != "absent"}
    return _read(Checkpoint("hf", raw, {}, {}, (Path("config.json"),), dict))


def read_gguf(name: str, *tensors: str, **metadata: Any) -> Any:
    shapes = {
        tensor: (100, 64) if tensor.startswith("token_embd") else (8,) for tensor in ("token_embd.weight", *tensors)
    }
    found = {
        tensor: LazyTensor(tensor, "float32", shape, lambda *_: np.full(8, 2.5)) for tensor, shape in shapes.items()
    }
    usual = {
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "block_count": 4,
        "attention.head_count": 4,
        "attention.key_length": 16,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
    }
    keys = {f"{name}.{key}": value for key, value in (usual | metadata).items()}
    return _read(Checkpoint("gguf", {"general.architecture": name, **keys}, {}, found, (Path("model.gguf"),), dict))


def _read(checkpoint: Checkpoint) -> Any:
    architecture = REGISTRY[model_type_of(checkpoint)]
    return read_config(checkpoint, architecture.model_types[model_type_of(checkpoint)], architecture.read_config)


def thetas(c: Any) -> list[float | None]:
    """The base of each layer's rotary positions."""
    return [None if rope is None else rope.rope_theta for rope in c.ropes]


def test_granite_divides_its_logits_and_takes_its_scores_as_they_are_by_default() -> None:
    c = read("granite", logits_scaling=8.0, embedding_multiplier=12)
    assert (c.logits_scale, c.embedding_scale, c.attention_scale, c.residual_scale) == (0.125, 12.0, 1.0, 1.0)


def test_every_fourth_layer_of_smollm3_has_no_positions() -> None:
    assert thetas(read("smollm3")) == [2000000.0, 2000000.0, 2000000.0, None]
    assert thetas(read("smollm3", no_rope_layers=[0, 1, 1, 0], rope_theta=5.0)) == [None, 5.0, 5.0, None]


def test_a_window_of_smollm3_is_that_of_layers_without_positions() -> None:
    c = read("smollm3", no_rope_layers=[0, 1, 1, 0], use_sliding_window=True, sliding_window=8)
    assert c.sliding_windows == (8, None, None, 8)


def test_gemma_means_the_approximation_when_it_says_gelu() -> None:
    c = read("gemma", hidden_act="gelu", head_dim=16)
    assert (c.hidden_act, c.embedding_scale, c.tie_word_embeddings) == ("gelu_pytorch_tanh", 8.0, True)


def test_local_layers_of_gemma3_come_five_to_one_with_positions_of_their_own() -> None:
    c = read("gemma3_text", num_hidden_layers=7, sliding_window=16, query_pre_attn_scalar=64, head_dim=16)
    assert c.sliding_windows == (16, 16, 16, 16, 16, None, 16)
    assert thetas(c) == [1e4, 1e4, 1e4, 1e4, 1e4, 1e6, 1e4]
    assert c.attention_scale == 0.125
    assert c.qk_norm


def test_a_scaling_of_gemma3_is_that_of_global_layers() -> None:
    c = read("gemma3_text", sliding_window_pattern=2, head_dim=16, rope_scaling={"rope_type": "linear", "factor": 8.0})
    assert [rope.factor for rope in c.ropes] == [1.0, 8.0, 1.0, 8.0]


def test_both_spellings_of_two_kinds_of_positions_read_alike() -> None:
    old = read(
        "gemma3_text", rope_theta=50.0, rope_local_base_freq=20.0, rope_scaling={"rope_type": "linear", "factor": 3.0}
    )
    new = {FULL: {"rope_theta": 50.0, "rope_type": "linear", "factor": 3.0}, SLIDING: {"rope_theta": 20.0}}
    assert old.ropes == read("gemma3_text", rope_parameters=new).ropes


def test_local_layers_keep_their_positions_where_the_window_is_longer_than_the_context() -> None:
    c = read("gemma3_text", sliding_window=128, sliding_window_pattern=2)
    assert c.sliding_windows == (None,) * 4
    assert thetas(c) == [1e4, 1e6, 1e4, 1e6]
    assert thetas(read("cohere2", sliding_window=128, layer_norm_eps=1e-5)) == [1e4, 1e4, 1e4, None]


def test_global_layers_of_cohere2_and_exaone4_have_no_positions() -> None:
    for kind in ("cohere2", "exaone4"):
        c = read(kind, sliding_window=8)
        assert c.sliding_windows == (8, 8, 8, None)
        assert thetas(c) == [1e4, 1e4, 1e4, None]


def test_without_windows_all_layers_of_exaone4_have_positions() -> None:
    assert thetas(read("exaone4", sliding_window=None)) == [1e4] * 4


def test_a_pattern_may_be_spelt_with_letters() -> None:
    assert read("exaone4", sliding_window=8, sliding_window_pattern="GL").sliding_windows == (None, 8, None, 8)


def test_alpha_of_hunyuan_makes_a_larger_base() -> None:
    c = read("hunyuan_v1_dense", rope_scaling={"type": "dynamic", "alpha": 128.0, "factor": 1.0}, head_dim=16)
    assert thetas(c) == [pytest.approx(10000.0 * 128.0 ** (16 / 14))] * 4


def test_su_is_the_first_name_of_longrope() -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rope = read("phi3", rope_scaling={"type": "su", **factors}, original_max_position_embeddings=32).ropes[0]
    assert (rope.rope_type, rope.original_max_position_embeddings) == ("longrope", 32)
    assert read("phi3", rope_scaling={"type": "su", **factors}, original_max_position_embeddings=32).short_context == 32


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must be 0 or 1 for each of the 4 layers"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention True is not supported"),
        ("gemma2", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0, expected a whole number from 1"),
        ("exaone4", {"sliding_window_pattern": "LX"}, "sliding_window_pattern is 'LX'"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias True is not supported"),
        ("cohere", {}, "rope_theta is missing"),
        ("olmo", {"clip_qkv": -1}, "clip_qkv is -1, expected a positive number"),
        (
            "olmo2",
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "extrapolation_factor": 0.5}},
            "extrapolation_factor 0.5 of YaRN is not supported",
        ),
    ],
)
def test_each_unsupported_value_is_named(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        read(model_type, **changes)


def test_everything_unsupported_is_listed_at_once() -> None:
    with pytest.raises(UnsupportedConfig) as caught:
        read(
            "gemma2",
            hidden_activation="mish",
            attn_logit_softcapping="much",
            query_pre_attn_scalar=0,
            layer_types=["x"],
        )
    for part in (
        "hidden_activation 'mish'",
        "attn_logit_softcapping is 'much'",
        "query_pre_attn_scalar is 0",
        "layer_types must",
    ):
        assert part in str(caught.value)


def test_gguf_says_gemma3s_pattern_by_its_architecture_or_by_a_number() -> None:
    window = {"attention.sliding_window": 16, "block_count": 6}
    assert read_gguf("gemma3", **window).sliding_windows == (16, 16, 16, 16, 16, None)
    every_second = read_gguf("gemma3", **window, **{"attention.sliding_window_pattern": 2})
    assert every_second.sliding_windows == (16, None) * 3
    assert read_gguf("gemma3", block_count=6).sliding_windows == (None,) * 6


def test_gguf_says_olmo3s_layers_one_by_one() -> None:
    pattern = [True, False, False, True]
    c = read_gguf("olmo2", **{"attention.sliding_window": 16, "attention.sliding_window_pattern": pattern})
    assert c.sliding_windows == (16, None, None, 16)


def test_a_window_of_0_in_gguf_is_none() -> None:
    assert read_gguf("phi3", **{"attention.sliding_window": 0}).sliding_windows == (None,) * 4


@pytest.mark.parametrize(("name", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemma_scales_its_scores_by_the_share_of_the_hidden_size(name: str, layers: int) -> None:
    largest = read_gguf(name, block_count=layers, **{"attention.key_length": 8})
    assert largest.attention_scale == 16**-0.5
    assert read_gguf(name, block_count=layers - 1, **{"attention.key_length": 8}).attention_scale == 8**-0.5


def test_gguf_keeps_longrope_in_tensors() -> None:
    rope: RopeConfig = read_gguf(
        "phi3",
        "rope_factors_long.weight",
        "rope_factors_short.weight",
        **{"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.25},
    ).ropes[0]
    assert (rope.rope_type, rope.long_factor, rope.attention_factor) == ("longrope", (2.5,) * 8, 1.25)


def test_gguf_spells_yarn_in_its_own_way() -> None:
    scaling = {
        "type": "yarn",
        "factor": 4.0,
        "original_context_length": 32,
        "yarn_beta_fast": 8.0,
        "yarn_log_multiplier": 1.0,
    }
    rope = read_gguf("qwen3", **{f"rope.scaling.{key}": value for key, value in scaling.items()}).ropes[0]
    assert (rope.rope_type, rope.factor, rope.original_max_position_embeddings, rope.beta_fast) == (
        "yarn",
        4.0,
        32,
        8.0,
    )
    assert rope.attention_factor == 1.0  # both of DeepSeek's numbers are 1, so they cancel out
