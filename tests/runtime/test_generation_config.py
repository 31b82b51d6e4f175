from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from edgelm.errors import InvalidOption, UnsupportedConfig
from edgelm.generation_config import GenerationConfig, Interval, option_fields, unsupported_keys


def test_defaults_sample_from_the_unfiltered_distribution():
    config = GenerationConfig()
    assert (config.max_new_tokens, config.temperature, config.seed) == (256, 1.0, None)
    assert (config.top_k, config.top_p, config.min_p, config.repetition_penalty) == (0, 1.0, 0.0, 1.0)
    assert (config.stop, config.eos_token_id) == ((), ())


def test_values_are_brought_to_their_declared_types():
    config = GenerationConfig(temperature=1, top_k=np.int64(5), top_p=np.float32(0.5), stop=["a"], eos_token_id=[1, 2])  # type: ignore[arg-type]
    assert (config.temperature, config.top_k, config.top_p) == (1.0, 5, 0.5)
    assert [type(v) for v in (config.temperature, config.top_k, config.top_p)] == [float, int, float]
    assert (config.stop, config.eos_token_id) == (("a",), (1, 2))


def test_one_stop_text_or_end_id_stands_for_a_list_of_one():
    config = GenerationConfig(stop="end", eos_token_id=7)  # type: ignore[arg-type]
    assert (config.stop, config.eos_token_id) == (("end",), (7,))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", "abc", r"option temperature is 'abc', but must be a number in \[0, 100\]"),
        ("temperature", -0.1, r"temperature is -0\.1, but must be a number in \[0, 100\]"),
        ("temperature", math.nan, r"temperature is nan"),
        ("temperature", math.inf, r"temperature is inf"),
        ("temperature", True, r"temperature is True"),
        ("temperature", 10**400, r"temperature is 1000"),
        ("max_new_tokens", 0, r"max_new_tokens is 0, but must be an integer in \[1, inf\)"),
        ("max_new_tokens", None, r"max_new_tokens is None"),
        ("max_new_tokens", 1.5, r"max_new_tokens is 1\.5, but must be an integer"),
        ("top_k", -1, r"top_k is -1, but must be an integer in \[0, inf\)"),
        ("top_k", True, r"top_k is True"),
        ("top_p", 1.01, r"top_p is 1\.01, but must be a number in \[0, 1\]"),
        ("min_p", -0.01, r"min_p is -0\.01, but must be a number in \[0, 1\]"),
        ("repetition_penalty", 0, r"repetition_penalty is 0, but must be a number in \[0\.01, 100\]"),
        ("seed", -1, r"seed is -1, but must be an integer in \[0, 18446744073709551615\]"),
        ("seed", 2**64, r"seed is 18446744073709551616"),
        ("stop", ("",), r"stop is '', but must be a non-empty text"),
        ("stop", (1,), r"stop is 1, but must be a non-empty text"),
        ("stop", {"a": 1}, r"stop is \{'a': 1\}, but must be a non-empty text"),
        ("eos_token_id", (-1,), r"eos_token_id is -1, but must be an integer in \[0, inf\)"),
        ("eos_token_id", "2", r"eos_token_id is '2', but must be an integer"),
        ("eos_token_id", (False,), r"eos_token_id is False"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name: str, value: Any, message: str):
    with pytest.raises(InvalidOption, match=message):
        GenerationConfig(**{name: value})


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(InvalidOption, match=r"temperature is -1.*; option top_p is 2"):
        GenerationConfig(temperature=-1, top_p=2)


def test_infinity_lies_in_no_interval():
    assert 1e300 in Interval(0)
    assert math.inf not in Interval(0)
    assert math.nan not in Interval(0)


def test_replace_changes_what_is_given_and_leaves_what_is_none():
    config = GenerationConfig(temperature=0.5, top_k=40)
    assert config.replace(temperature=0, top_k=None, stop=["x"]) == GenerationConfig(
        temperature=0, top_k=40, stop=("x",)
    )
    assert config.replace() == config


def test_replace_refuses_wrong_values():
    with pytest.raises(InvalidOption, match=r"top_p is 'abc'"):
        GenerationConfig().replace(top_p="abc")


def test_replace_names_the_nearest_known_option():
    with pytest.raises(InvalidOption, match=r"unknown generation option 'temprature': did you mean 'temperature'\?"):
        GenerationConfig().replace(temprature=1.0)
    with pytest.raises(InvalidOption, match=r"unknown generation option 'xyz': choose from max_new_tokens, temp"):
        GenerationConfig().replace(xyz=None)


def test_a_config_survives_a_round_trip_through_plain_values():
    config = GenerationConfig(temperature=0.7, seed=3, stop=("a", "b"), eos_token_id=(2,))
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(config).items()}
    assert GenerationConfig().replace(**plain) == config


@pytest.mark.parametrize("raw", [{}, {"do_sample": False, "temperature": 0.6}, {"do_sample": None}])
def test_a_checkpoint_that_does_not_ask_for_sampling_is_greedy(raw: dict[str, Any]):
    assert GenerationConfig.from_checkpoint(raw).temperature == 0


def test_a_sampling_checkpoint_keeps_its_settings():
    raw = {
        "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05,
        "eos_token_id": [151645, 151643], "pad_token_id": 151643, "stop_strings": ["<end>"], "max_new_tokens": 64,
    }  # fmt: skip
    assert GenerationConfig.from_checkpoint(raw) == GenerationConfig(
        temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05,
        eos_token_id=(151645, 151643), stop=("<end>",), max_new_tokens=64,
    )  # fmt: skip


@pytest.mark.parametrize("raw", [{}, {"top_k": None}])
def test_a_sampling_checkpoint_without_top_k_gets_the_50_of_transformers(raw: dict[str, Any]):
    assert GenerationConfig.from_checkpoint({"do_sample": True, **raw}).top_k == 50


def test_a_single_end_id_of_a_checkpoint_is_read():
    assert GenerationConfig.from_checkpoint({"eos_token_id": 2}).eos_token_id == (2,)


def test_an_unusable_value_in_a_checkpoint_names_the_file_and_all_entries():
    raw = {"do_sample": True, "top_p": 7, "eos_token_id": "</s>"}
    message = r"generation_config\.json: option top_p is 7,.*; option eos_token_id is '</s>',.*; correct or remove"
    with pytest.raises(UnsupportedConfig, match=message):
        GenerationConfig.from_checkpoint(raw)


def test_a_checkpoint_whose_do_sample_is_no_boolean_is_refused():
    with pytest.raises(
        UnsupportedConfig, match=r"generation_config\.json: do_sample is 'yes', but must be true or false"
    ):
        GenerationConfig.from_checkpoint({"do_sample": "yes"})


def test_keys_that_would_change_the_output_are_listed():
    raw = {
        "num_beams": 4, "no_repeat_ngram_size": 3, "typical_p": 0.9, "suppress_tokens": [1], "forced_eos_token_id": 2,
        "watermarking_config": {}, "bad_words_ids": [[3]], "min_new_tokens": 5, "guidance_scale": 1.5,
    }  # fmt: skip
    assert unsupported_keys(raw) == sorted(raw)


def test_a_key_nobody_knows_is_listed():
    assert unsupported_keys({"chat_format": "chatml", "seed": 1, "stop": ["a"]}) == ["chat_format", "seed", "stop"]


def test_neutral_values_and_keys_without_effect_are_not_listed():
    raw = {
        "do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2, "stop_strings": None, "num_beams": 1,
        "typical_p": 1.0, "no_repeat_ngram_size": 0, "suppress_tokens": None, "begin_suppress_tokens": [],
        "bos_token_id": 1, "pad_token_id": 0, "max_length": 4096, "transformers_version": "5.0", "use_cache": True,
        "_from_model_config": True, "length_penalty": 2.0,
    }  # fmt: skip
    assert unsupported_keys(raw) == []


def test_every_field_describes_itself():
    for field in dataclasses.fields(GenerationConfig):
        assert field.metadata["help"].endswith(".")
        assert set(field.metadata) == {"help", "range", "type", "multiple", "cli"}


def test_command_line_options_are_the_fields_meant_for_it():
    options = {option.name: option for option in option_fields()}
    assert list(options) == [f.name for f in dataclasses.fields(GenerationConfig) if f.name != "eos_token_id"]
    assert (options["top_k"].type, options["top_k"].default, options["top_k"].range) == (int, 0, Interval(0))
    assert (options["seed"].type, options["seed"].default, options["seed"].multiple) == (int, None, False)
    assert (options["stop"].type, options["stop"].range, options["stop"].multiple) == (str, None, True)
    assert str(options["top_p"].range) == "[0, 1]"
