"""Raw configs of the GPT lineage: what keys mean, and every value that is not supported, listed at once by the name it has in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import UnsupportedConfig
from edgelm_export.architectures import REGISTRY
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.config import Alibi, GptConfig
from edgelm_export.read_config import read_config

FIRST: dict[str, Any] = {"vocab_size": 100, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128}
LATER: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
}
NEO = {**LATER, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 16}
MPT: dict[str, Any] = {"vocab_size": 100, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}
RAW: dict[str, dict[str, Any]] = {
    "openai-gpt": FIRST,
    "gpt2": FIRST,
    "gpt_bigcode": FIRST,
    "gpt_neo": {key: value for key, value in NEO.items() if key not in ("num_hidden_layers", "num_attention_heads")},
    "opt": {**LATER, "ffn_dim": 96},
    "gpt_neox": LATER,
    "gptj": {**FIRST, "rotary_dim": 8},
    "codegen": {**FIRST, "rotary_dim": 8},
    "phi": LATER,
    "falcon": LATER,
    "bloom": {"vocab_size": 100, "n_embed": 64, "n_head": 4, "n_layer": 2},
    "mpt": MPT,
    "starcoder2": LATER,
    "stablelm": LATER,
    "nemotron": LATER,
}


def read(model_type: str, context_length: int | None = None, **changes: Any) -> GptConfig:
    raw = {"model_type": model_type, **RAW[model_type], **changes}
    architecture = REGISTRY[model_type]
    checkpoint = Checkpoint("hf", raw, {}, {}, (Path("config.json"),), dict)
    facts = architecture.model_types[model_type]
    return read_config(checkpoint, facts, architecture.read_config, context_length)


@pytest.mark.parametrize("model_type", RAW)
def test_a_config_of_sizes_alone_is_complete(model_type: str) -> None:
    c = read(model_type)
    assert (c.hidden_size, c.num_attention_heads, c.num_hidden_layers, c.head_dim) == (64, 4, 2, 16)
    assert c.notes == ()


def test_an_inner_size_that_is_null_follows_from_the_hidden_size() -> None:
    assert read("gpt2", n_inner=None).intermediate_size == 4 * 64
    assert read("gpt2", n_inner=100).intermediate_size == 100


def test_the_first_gpt_calls_the_approximation_gelu() -> None:
    assert read("openai-gpt").hidden_act == read("openai-gpt", afn="gelu").hidden_act == "gelu_new"
    assert read("openai-gpt", afn="relu").hidden_act == "relu"
    assert read("gpt2", activation_function="gelu").hidden_act == "gelu"


def test_gpt_neo_repeats_its_patterns_of_layers() -> None:
    c = read("gpt_neo", num_layers=5, attention_types=[[["global", "local"], 2], [["local"], 1]])
    assert c.sliding_windows == (None, 16, None, 16, 16)
    assert c.attention_scale == 1.0
    assert read("gpt_neo", 16).sliding_windows == (None, None)  # a window as long as the context is none


def test_falcon_has_the_key_heads_of_its_architecture() -> None:
    assert read("falcon", num_kv_heads=2).num_key_value_heads == 1
    assert read("falcon", multi_query=False).num_key_value_heads == 4
    newer = read("falcon", num_kv_heads=2, new_decoder_architecture=True)
    assert (newer.num_key_value_heads, newer.layer) == (2, "parallel")
    assert read("falcon").layer == "parallel-one-norm"
    assert read("falcon", alibi=True).alibi == Alibi(scale=0.25, rounded=True)


def test_bloom_has_no_end_of_its_own() -> None:
    assert read("bloom").context_length == 2048
    assert read("bloom", 10_000).context_length == 10_000
    assert read("bloom", seq_length=512).context_length == 512


def test_mpt_heeds_the_slopes_its_config_asks_for() -> None:
    c = read("mpt", attn_config={"alibi_bias_max": 16, "clip_qkv": 6})
    assert c.alibi == Alibi(bias_max=16)
    assert (c.clip_qkv, c.attention_scale) == (6, None)


UNSUPPORTED = [
    ("gpt2", {"n_head": 3}, r"hidden_size 64 is not a multiple of num_attention_heads 3"),
    ("gpt2", {"n_head": 16}, r"head_dim 4 is not a multiple of 8, which the fused attention of ONNX Runtime needs"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx True is not supported"),
    ("gpt2", {"activation_function": "mish"}, r"activation_function 'mish' is not supported \(known: "),
    ("gpt2", {"n_positions": -1}, r"n_positions is -1, expected a whole number from 1"),
    (
        "gpt_neo",
        {"attention_types": [[["global"], 1]]},
        r"attention_types .* must name global or local for each of the 2",
    ),
    ("gpt_neo", {"attention_types": 3}, r"attention_types 3 must name global or local"),
    ("opt", {"scale_embeddings": True}, r"scale_embeddings True is not supported \(only False\)"),
    ("gptj", {"rotary_dim": None}, r"rotary_dim is missing"),
    ("gptj", {"rotary_dim": 7}, r"rotary_dim is 7, expected an even number of the 16 dimensions of a head"),
    ("codegen", {"n_embd": 72, "n_head": 9, "rotary_dim": 32}, r"rotary_dim is 32"),
    ("codegen", {"n_embd": 50, "head_dim": 16}, r"n_embd 50 is not a multiple of 4, the pieces of its projections"),
    ("gpt_neox", {"rotary_pct": 0.1}, r"partial_rotary_factor 0.1 of head_dim 16 is no even number"),
    ("phi", {"rope_scaling": {"type": "spiral"}}, r"rope type 'spiral' is not supported"),
    ("falcon", {"num_ln_in_parallel_attn": 2}, r"num_ln_in_parallel_attn 2 is not supported"),
    (
        "falcon",
        {"new_decoder_architecture": True, "parallel_attn": False},
        r"parallel_attn false is not supported where new_decoder_architecture is true",
    ),
    ("bloom", {"slow_but_exact": True}, r"slow_but_exact True is not supported"),
    ("mpt", {"attn_config": {"qk_ln": True}}, r"attn_config.qk_ln True is not supported \(only False\)"),
    ("mpt", {"attn_config": {"alibi": False}}, r"attn_config.alibi False is not supported \(only True\)"),
    ("mpt", {"attn_config": "flash"}, r"attn_config is 'flash', expected an object"),
    ("mpt", {"logit_scale": "inv_sqrt_d_model"}, r"logit_scale 'inv_sqrt_d_model' is not supported"),
    ("mpt", {"expansion_ratio": 2}, r"expansion_ratio 2 is not supported"),
    ("starcoder2", {"num_key_value_heads": 3}, r"num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
    ("stablelm", {"layer_norm_eps": 0}, r"layer_norm_eps is 0, expected a positive number"),
]


@pytest.mark.parametrize(("model_type", "changes", "message"), UNSUPPORTED)
def test_what_is_not_supported_is_named(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        read(model_type, **changes)


def test_everything_that_is_not_supported_is_listed_at_once() -> None:
    with pytest.raises(UnsupportedConfig) as caught:
        read("mpt", no_bias=False, n_heads=3, layer_norm_epsilon="small", attn_config={"prefix_lm": True})
    for part in (
        "no_bias False",
        "num_attention_heads 3",
        "layer_norm_epsilon is 'small'",
        "attn_config.prefix_lm True",
    ):
        assert part in str(caught.value)


def test_keys_that_nobody_knows_are_noted_as_the_file_spells_them() -> None:
    (note,) = read("gpt2", n_experts=4).notes
    assert "'n_experts' is not known" in note
