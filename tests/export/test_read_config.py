"""Raw configs: both spellings read alike, everything unsupported listed at once, nothing unknown passed over in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import UnsupportedArchitecture, UnsupportedConfig
from edgelm_export.architectures import REGISTRY
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.config import DecoderConfig, RopeConfig
from edgelm_export.read_config import model_type_of, read_config
from edgelm_export.read_decoder_config import read_decoder_config

RAW: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 5000.0,
}


def read(context_length: int | None = None, **changes: Any) -> DecoderConfig:
    raw = {key: value for key, value in (RAW | changes).items() if value != "absent"}
    checkpoint = Checkpoint("hf", raw, {}, {}, (Path("config.json"),), dict)
    model_type = model_type_of(checkpoint)
    return read_config(checkpoint, REGISTRY[model_type].model_types[model_type], read_decoder_config, context_length)


def rope(**changes: Any) -> RopeConfig:
    """The rotary positions of every layer."""
    (kind,) = set(read(**changes).ropes)
    assert kind is not None
    return kind


def test_what_is_left_unsaid_is_derived() -> None:
    c = read()
    assert (c.num_key_value_heads, c.head_dim, c.context_length, c.tie_word_embeddings) == (4, 16, 128, False)
    assert c.sliding_windows == (None, None)


def test_both_spellings_of_rope_read_alike() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = read(rope_scaling={"rope_type": "llama3", **scaling})
    new = read(rope_theta="absent", rope_parameters={"rope_type": "llama3", "rope_theta": 5000.0, **scaling})
    assert old.ropes == new.ropes
    assert rope(rope_scaling={"type": "linear", "factor": 2.0}).factor == 2.0


def test_facts_of_the_model_type_fill_what_its_config_leaves_unsaid() -> None:
    assert read(model_type="qwen2").qkv_bias
    assert not read(model_type="qwen2").attention_output_bias
    assert read(model_type="qwen3").qk_norm
    assert rope(rope_theta="absent").rope_theta == 10000.0


def test_attention_bias_covers_all_four_projections() -> None:
    c = read(attention_bias=True)
    assert c.qkv_bias
    assert c.attention_output_bias


def test_everything_unsupported_is_listed_at_once() -> None:
    with pytest.raises(UnsupportedConfig) as caught:
        read(
            hidden_act="xielu", rope_scaling={"rope_type": "yar"}, num_attention_heads=5, vocab_size="many", mlp_bias=3
        )
    for part in (
        "hidden_act 'xielu'",
        "rope type 'yar'",
        "not a multiple of num_attention_heads 5",
        "vocab_size is 'many'",
        "mlp_bias is 3",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": "absent"}, "vocab_size is missing"),
        ({"hidden_size": 0}, "hidden_size is 0, expected a whole number from 1"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0, expected a positive number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"head_dim": 20}, "head_dim 20 is not a multiple of 8"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantization_config 'hqq' is not read yet .known: awq"),
        ({"hidden_act": ["silu"]}, r"hidden_act \['silu'\] is not supported"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor 1.5 of head_dim 16 is no even number of dimensions"),
        ({"partial_rotary_factor": 0.2}, "partial_rotary_factor 0.2 of head_dim 16 is no even number of dimensions"),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}},
            "short_factor must be 8 positive numbers",
        ),
        (
            {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 2.0}},
            "expected a share of at most 1",
        ),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn', expected an object"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"model_type": "mistral", "layer_types": ["x", "y"], "sliding_window": 8}, "layer_types must name"),
    ],
)
def test_each_unsupported_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        read(**changes)


def test_a_key_nobody_knows_becomes_a_note() -> None:
    assert read(logit_cap=3).notes == ("config key 'logit_cap' is not known to edgelm and was not used",)


@pytest.mark.parametrize("length", [0, 129])
def test_a_context_beyond_the_checkpoint_is_refused(length: int) -> None:
    with pytest.raises(UnsupportedConfig, match=rf"context length {length} is outside 1..128"):
        read(context_length=length)
    assert read(context_length=100).context_length == 100


def test_sliding_windows_follow_the_config() -> None:
    assert read(model_type="mistral", sliding_window=8).sliding_windows == (8, 8)
    assert read(model_type="mistral", max_position_embeddings=8192).sliding_windows == (4096, 4096)
    assert read(model_type="mistral", sliding_window=None).sliding_windows == (None, None)
    assert read(model_type="llama", sliding_window=8).sliding_windows == (None, None)
    qwen = {"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 1}
    assert read(**qwen, use_sliding_window=True).sliding_windows == (None, 8)
    assert read(**qwen, use_sliding_window=False).sliding_windows == (None, None)
    assert read(**qwen, use_sliding_window=False).notes == ()
    types = ["sliding_attention", "full_attention"]
    assert read(**qwen, use_sliding_window=True, layer_types=types).sliding_windows == (8, None)


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert read(model_type="mistral", sliding_window=127).sliding_windows == (127, 127)
    assert read(model_type="mistral", sliding_window=128).sliding_windows == (None, None)
    assert read(100, model_type="mistral", sliding_window=127).sliding_windows == (None, None)


def test_a_config_without_model_type_is_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match="no model_type, so the architecture is unknown"):
        read(model_type="absent")


def test_every_registered_type_reads() -> None:
    for model_type in REGISTRY:
        assert read(model_type=model_type).model_type == model_type


@pytest.mark.parametrize("kind", [["llama3"], {"a": 1}, 3])
def test_a_rope_type_that_is_no_text_is_listed(kind: Any) -> None:
    with pytest.raises(UnsupportedConfig, match="rope type .* is not supported"):
        read(rope_scaling={"rope_type": kind, "factor": 2.0})


def test_more_layers_than_any_model_has_are_refused_before_they_take_memory() -> None:
    with pytest.raises(
        UnsupportedConfig, match="num_hidden_layers is 2147483647, expected a whole number from 1 to 512"
    ):
        read(num_hidden_layers=2**31 - 1)
