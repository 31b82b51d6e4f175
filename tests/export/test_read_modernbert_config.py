"""Raw configs of ModernBERT and EuroBERT: both releases' spellings read alike, everything else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import UnsupportedConfig
from edgelm_export.architectures import REGISTRY
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.config import EuroBertConfig, ModernBertConfig, RopeConfig
from edgelm_export.read_config import read_config

MODERNBERT: dict[str, Any] = {
    "model_type": "modernbert",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
EUROBERT = MODERNBERT | {"model_type": "eurobert", "hidden_act": "silu", "rms_norm_eps": 1e-5}
FULL, SLIDING = "full_attention", "sliding_attention"


def read(raw: dict[str, Any]) -> Any:
    checkpoint = Checkpoint("hf", raw, {}, {}, (Path("config.json"),), dict)
    architecture = REGISTRY[raw["model_type"]]
    return read_config(checkpoint, architecture.model_types[raw["model_type"]], architecture.read_config)


def modernbert(**changes: Any) -> ModernBertConfig:
    return read({key: value for key, value in (MODERNBERT | changes).items() if value != "absent"})


def eurobert(**changes: Any) -> EuroBertConfig:
    return read(EUROBERT | changes)


def test_what_is_left_unsaid_is_as_in_the_first_release() -> None:
    c = modernbert()
    assert c.reaches == (None, 64, 64, None)
    assert (c.global_rope, c.local_rope) == (RopeConfig(160000.0), RopeConfig(10000.0))
    assert (c.head_dim, c.hidden_act, c.layer_norm_eps, c.tie_word_embeddings) == (16, "gelu", 1e-5, True)
    assert (c.norm_bias, c.qkv_bias, c.attention_output_bias, c.mlp_bias) == (False,) * 4
    assert (c.decoder_bias, c.classifier_bias, c.classifier_pooling) == (True, False, "cls")
    assert c.notes == ()


@pytest.mark.parametrize(("window", "reach"), [(128, 64), (9, 4), (1, 0), (0, 0)])
def test_a_window_reaches_half_its_width_to_each_side(window: int, reach: int) -> None:
    assert modernbert(local_attention=window).reaches == (None, reach, reach, None)


def test_layers_are_told_apart_in_two_spellings() -> None:
    assert modernbert(global_attn_every_n_layers=1).reaches == (None,) * 4
    assert modernbert(global_attn_every_n_layers=2).reaches == (None, 64, None, 64)
    named = [SLIDING, FULL, FULL, SLIDING]
    assert modernbert(layer_types=named, global_attn_every_n_layers="absent").reaches == (64, None, None, 64)


def test_the_bases_of_positions_are_told_in_two_spellings() -> None:
    old = modernbert(global_rope_theta=5e4, local_rope_theta=3e3)
    new = modernbert(rope_parameters={FULL: {"rope_theta": 5e4}, SLIDING: {"rope_type": "default", "rope_theta": 3e3}})
    assert (old.global_rope, old.local_rope) == (new.global_rope, new.local_rope)
    mixed = modernbert(global_rope_theta=5e4, rope_parameters={FULL: None, SLIDING: {"rope_theta": 3e3}})
    assert (mixed.global_rope, mixed.local_rope) == (new.global_rope, new.local_rope)


def test_local_layers_without_a_base_take_the_global_one() -> None:
    assert modernbert(local_rope_theta=None).local_rope == RopeConfig(160000.0)


def test_each_kind_of_layer_may_be_scaled_apart() -> None:
    c = modernbert(rope_parameters={FULL: {"rope_type": "linear", "factor": 4.0}, SLIDING: {}})
    assert (c.global_rope, c.local_rope) == (RopeConfig(160000.0, "linear", 4.0), RopeConfig(10000.0))
    older = modernbert(rope_parameters={FULL: {"type": "linear", "factor": 4.0}})
    assert older.global_rope == c.global_rope
    both = modernbert(rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert (both.global_rope.factor, both.local_rope.factor) == (2.0, 2.0)


def test_keys_without_effect_are_known() -> None:
    keys = {
        "embedding_dropout": 0.1,
        "mlp_dropout": 0.1,
        "deterministic_flash_attn": False,
        "reference_compile": None,
        "repad_logits_with_grad": False,
        "sparse_prediction": True,
        "sparse_pred_ignore_index": -100,
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
    }
    assert modernbert(**keys).notes == ()
    assert modernbert(**keys).layer_norm_eps == 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 66}, "hidden_size 66 over num_attention_heads 4 is no even head size, or head_dim differs"),
        ({"hidden_size": 60}, "hidden_size 60 over num_attention_heads 4 is no even head size"),
        ({"head_dim": 32}, "is no even head size, or head_dim differs from it"),
        ({"local_attention": -1}, "local_attention is -1, expected a whole number from 0"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0, expected a whole number from 1"),
        ({"layer_types": [FULL] * 3}, "layer_types must name full_attention or sliding_attention for each of the 4"),
        ({"layer_types": [FULL, FULL, FULL, "chunked_attention"]}, "layer_types must name full_attention or sliding"),
        ({"layer_types": [FULL, FULL, FULL, []]}, "layer_types must name full_attention or sliding_attention"),
        ({"layer_types": "full_attention"}, "layer_types must name full_attention or sliding_attention"),
        ({"rope_parameters": {"rope_theta": 5e4}}, "rope_parameters must hold an object each for full_attention and"),
        ({"rope_parameters": [1]}, "rope_parameters must hold an object each"),
        ({"rope_parameters": {FULL: 3}}, "rope_parameters must hold an object each"),
        ({"rope_scaling": "linear"}, "rope_parameters must hold an object each .* and rope_scaling be one"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling {'type': 'linear', .*} names no rope_type"),
        ({"rope_parameters": {FULL: {"rope_type": "yar", "factor": 2.0}}}, "rope type 'yar' is not supported"),
        ({"global_rope_theta": 0}, "global_rope_theta is 0, expected a positive number"),
        ({"hidden_activation": "xielu"}, "hidden_activation 'xielu' is not supported"),
        ({"classifier_activation": "xielu"}, "classifier_activation 'xielu' is not supported"),
        ({"classifier_pooling": "last"}, r"classifier_pooling 'last' is not supported \(known: cls, mean\)"),
        ({"norm_bias": 1}, "norm_bias is 1, expected true or false"),
        ({"vocab_size": "absent"}, "vocab_size is missing"),
    ],
)
def test_each_unsupported_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        modernbert(**changes)


@pytest.mark.parametrize(("key", "stated"), [("classifier_pooling", "bos"), ("clf_pooling", "bos")])
def test_eurobert_names_its_pooling_in_two_spellings(key: str, stated: str) -> None:
    c = eurobert(**{key: stated})
    assert (c.classifier_pooling, c.causal, set(c.ropes), c.notes) == ("cls", False, {RopeConfig(10000.0)}, ())
    assert eurobert().classifier_pooling == "late"
    assert eurobert(classifier_pooling="mean", clf_pooling="bos").classifier_pooling == "mean"


def test_an_unknown_pooling_of_eurobert_is_refused() -> None:
    with pytest.raises(UnsupportedConfig, match=r"clf_pooling 'eos' is not supported \(known: bos, late, mean\)"):
        eurobert(clf_pooling="eos")


def test_windows_of_a_model_that_is_not_causal_are_refused() -> None:
    raw = EUROBERT | {"model_type": "mistral", "sliding_window": 8, "is_causal": False}
    with pytest.raises(
        UnsupportedConfig, match="sliding windows are supported in causal models only .is_causal is false"
    ):
        read(raw)
    assert not read(raw | {"sliding_window": None}).causal


@pytest.mark.parametrize(
    ("stated", "expected"), [(7, (7, True)), (None, (0, False)), (-1, (0, False)), (100, (0, False))]
)
def test_padding_is_an_id_of_the_vocabulary_or_any(stated: int | None, expected: tuple[int, bool]) -> None:
    c = eurobert(pad_token_id=stated)
    assert (c.pad_token_id, c.pads_by_id) == expected
