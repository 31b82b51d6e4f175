from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from edgelm.errors import InvalidOption, UnsupportedConfig
from edgelm.generation_config import GenerationConfig, option_fields
from edgelm.generation_defaults import read_generation_config, unsupported_keys
from edgelm.option import Interval
from edgelm.sampling import FILTERS


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
        ("num_beams", 0, r"num_beams is 0, but must be an integer in \[1, inf\)"),
        ("num_return_sequences", 0, r"num_return_sequences is 0, but must be an integer in \[1, inf\)"),
        ("no_repeat_ngram_size", -1, r"no_repeat_ngram_size is -1, but must be an integer in \[0, inf\)"),
        ("min_new_tokens", -1, r"min_new_tokens is -1"),
        ("length_penalty", math.inf, r"length_penalty is inf, but must be a number in \[-100, 100\]"),
        ("early_stopping", "sometimes", r"early_stopping is 'sometimes', but must be false, true or never"),
        ("early_stopping", 1, r"early_stopping is 1, but must be false, true or never"),
        ("renormalize_logits", "never", r"renormalize_logits is 'never', but must be false or true"),
        ("forced_bos_token_id", -1, r"forced_bos_token_id is -1, but must be an integer in \[0, inf\)"),
        ("forced_eos_token_id", "2", r"forced_eos_token_id is '2'"),
        ("suppress_tokens", (1, -1), r"suppress_tokens is -1"),
        (
            "bad_words_ids",
            [[1], []],
            r"bad_words_ids is \[\[1\], \[\]\], but must be a list of lists, each item an integer in \[0",
        ),
        ("bad_words_ids", [1, 2], r"bad_words_ids is 1, but must be a list of lists"),
        ("bad_words_ids", [[1, "a"]], r"bad_words_ids is 'a', but must be a list of lists"),
        ("logit_bias", {1: "x"}, r"logit_bias has \(1, 'x'\), but must map token ids to numbers in \[-1000000, "),
        ("logit_bias", {-1: 1.0}, r"logit_bias has \(-1, 1\.0\), but must map token ids to numbers"),
        ("logit_bias", {True: 1.0}, r"logit_bias has \(True, 1\.0\), but must map token ids to numbers"),
        ("logit_bias", {1: math.inf}, r"logit_bias has \(1, inf\), but must map token ids to numbers"),
        ("logit_bias", [[[], 1.0]], r"logit_bias has \[\[\], 1\.0\], but must map token ids to numbers"),
        ("logit_bias", ["7"], r"logit_bias has '7', but must map token ids to numbers"),
        ("logit_bias", 7, r"logit_bias is 7, but must be"),
        (
            "dry_sequence_breakers",
            ["a", ""],
            r"dry_sequence_breakers is '', but must be a non-empty text or a token id",
        ),
        ("dry_sequence_breakers", [-1], r"dry_sequence_breakers is -1, but must be a non-empty text or a token id"),
        ("dry_sequence_breakers", [True], r"dry_sequence_breakers is True, but must be a non-empty text or a token id"),
        ("dry_base", 0.5, r"dry_base is 0\.5, but must be a number in \[1, 100\]"),
        ("xtc_threshold", 0.6, r"xtc_threshold is 0\.6, but must be a number in \[0, 0\.5\]"),
        ("logits_processors", [3], r"logits_processors is \[3\], but must be a function or a list of functions"),
        ("stopping_criteria", "f", r"stopping_criteria is 'f', but must be"),
        ("max_time", -1, r"max_time is -1, but must be a number in \[0, inf\)"),
        ("logprobs", -1, r"logprobs is -1, but must be an integer in \[0, 1000\]"),
        ("echo", "never", r"echo is 'never', but must be false or true"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name: str, value: Any, message: str):
    with pytest.raises(InvalidOption, match=message):
        GenerationConfig(**{name: value})


@pytest.mark.parametrize(
    "value", [{1: 2, (3, 4): -0.5}, [[[1], 2], [[3, 4], -0.5]], [(1, 2.0), ((3, 4), -0.5)], {"1": 2.0, (3, 4): -0.5}]
)
def test_a_bias_may_be_a_mapping_or_pairs(value: Any):
    assert GenerationConfig(logit_bias=value).logit_bias == (((1,), 2.0), ((3, 4), -0.5))


def test_a_bias_of_the_command_line_is_a_text():
    assert GenerationConfig(logit_bias=("5=-1.5", "6=2")).logit_bias == (((5,), -1.5), ((6,), 2.0))  # type: ignore[arg-type]


def test_one_function_stands_for_a_list_of_one():
    assert GenerationConfig(logits_processors=max, stopping_criteria=[print]).logits_processors == (max,)  # type: ignore[arg-type]


def test_ids_that_end_come_from_the_checkpoint_and_the_caller():
    config = GenerationConfig(eos_token_id=(1,)).replace(stop_token_ids=[5, 6])
    assert config.end_token_ids == (1, 5, 6)


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
    with pytest.raises(InvalidOption, match=r"unknown generation option 'xyz': choose from max_new_tokens, min_"):
        GenerationConfig().replace(xyz=None)


def test_a_config_survives_a_round_trip_through_plain_values():
    config = GenerationConfig(temperature=0.7, seed=3, stop=("a", "b"), eos_token_id=(2,))
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(config).items()}
    assert GenerationConfig().replace(**plain) == config


@pytest.mark.parametrize("raw", [{}, {"do_sample": False, "temperature": 0.6}, {"do_sample": None}])
def test_a_checkpoint_that_does_not_ask_for_sampling_is_greedy(raw: dict[str, Any]):
    assert read_generation_config(raw).temperature == 0


def test_a_sampling_checkpoint_keeps_its_settings():
    raw = {
        "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05,
        "eos_token_id": [151645, 151643], "pad_token_id": 151643, "stop_strings": ["<end>"], "max_new_tokens": 64,
    }  # fmt: skip
    assert read_generation_config(raw) == GenerationConfig(
        temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05,
        eos_token_id=(151645, 151643), stop=("<end>",), max_new_tokens=64,
    )  # fmt: skip


@pytest.mark.parametrize("raw", [{}, {"top_k": None}])
def test_a_sampling_checkpoint_without_top_k_gets_the_50_of_transformers(raw: dict[str, Any]):
    assert read_generation_config({"do_sample": True, **raw}).top_k == 50


def test_a_single_end_id_of_a_checkpoint_is_read():
    assert read_generation_config({"eos_token_id": 2}).eos_token_id == (2,)


def test_a_checkpoint_that_searches_with_beams_keeps_its_settings():
    raw = {
        "num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3, "min_length": 56,
        "forced_bos_token_id": 0, "forced_eos_token_id": 2, "bad_words_ids": [[5], [6, 7]], "suppress_tokens": [1],
        "begin_suppress_tokens": [8, 9], "encoder_no_repeat_ngram_size": 2, "renormalize_logits": True,
        "num_return_sequences": 2, "eos_token_id": 2, "max_length": 142, "min_new_tokens": 4,
    }  # fmt: skip
    assert unsupported_keys(raw) == []
    assert read_generation_config(raw) == GenerationConfig(
        temperature=0, num_beams=4, length_penalty=2.0, early_stopping=True, no_repeat_ngram_size=3, min_length=56,
        forced_bos_token_id=0, forced_eos_token_id=(2,), bad_words_ids=((5,), (6, 7)), suppress_tokens=(1,),
        begin_suppress_tokens=(8, 9), encoder_no_repeat_ngram_size=2, renormalize_logits=True,
        num_return_sequences=2, eos_token_id=(2,), min_new_tokens=4,
    )  # fmt: skip


def test_max_length_counts_only_where_the_beginning_is_known():
    assert read_generation_config({"max_length": 142}).max_new_tokens == 256
    assert read_generation_config({"max_length": 142}, start_tokens=1).max_new_tokens == 141
    both = {"max_length": 142, "max_new_tokens": 9}
    assert read_generation_config(both, start_tokens=1).max_new_tokens == 9
    assert read_generation_config({"max_length": None}, start_tokens=1).max_new_tokens == 256


@pytest.mark.parametrize(
    ("value", "read"), [(True, True), ("true", True), (False, False), ("false", False), ("never", "never")]
)
def test_early_stopping_is_a_boolean_or_never_in_json_and_on_a_command_line(value: Any, read: Any):
    assert GenerationConfig(early_stopping=value).early_stopping is read


def test_beams_switch_off_a_temperature_that_was_there_before():
    config = GenerationConfig(temperature=0.7, top_k=20).replace(num_beams=3)
    assert (config.temperature, config.num_beams, config.top_k) == (0.0, 3, 20)
    assert config.replace(temperature=0, max_new_tokens=3).num_beams == 3


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"top_k": 5}, "top_k"),
        ({"temperature": 1, "top_p": 0.9, "min_p": 0.1}, "temperature and top_p and min_p"),
    ],
)
def test_beams_and_settings_of_a_draw_contradict_each_other(given: dict[str, Any], named: str):
    message = rf"{named} cannot be combined with num_beams 4, .*: drop {named}, or give num_beams 1"
    with pytest.raises(InvalidOption, match=message):
        GenerationConfig().replace(num_beams=4, **given)
    with pytest.raises(InvalidOption, match=message):
        GenerationConfig(num_beams=4).replace(**given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "num_return_sequences": 3}, r"num_return_sequences 3 is more than num_beams 2 can find"),
        (
            {"temperature": 0, "num_return_sequences": 3},
            r"greedy decoding has one result, .* is 3: give num_beams 3 or more",
        ),
        (
            {"num_beams": 2, "stop": ("x",)},
            r"stop cannot end a beam search \(num_beams 2\): drop stop, or give num_beams 1",
        ),
        (
            {"num_beams": 2, "logprobs": 0, "echo": True, "max_time": 0, "stopping_criteria": print},
            r"max_time cannot end .*; stopping_criteria cannot end .*; logprobs cannot explain .*; echo cannot precede a beam",
        ),
        (
            {"min_new_tokens": 9, "max_new_tokens": 8},
            r"min_new_tokens 9 is more than max_new_tokens 8; lower one or raise",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(InvalidOption, match=message):
        GenerationConfig().replace(**options)
    with pytest.raises(InvalidOption, match=message):
        GenerationConfig(**options)


def test_an_unusable_value_in_a_checkpoint_names_the_file_and_all_entries():
    raw = {"do_sample": True, "top_p": 7, "eos_token_id": "</s>"}
    message = r"generation_config\.json: option top_p is 7,.*; option eos_token_id is '</s>',.*; correct or remove"
    with pytest.raises(UnsupportedConfig, match=message):
        read_generation_config(raw)


def test_a_checkpoint_whose_do_sample_is_no_boolean_is_refused():
    with pytest.raises(
        UnsupportedConfig, match=r"generation_config\.json: do_sample is 'yes', but must be true or false"
    ):
        read_generation_config({"do_sample": "yes"})


def test_keys_that_would_change_the_output_are_listed():
    raw = {
        "watermarking_config": {}, "guidance_scale": 1.5, "num_beam_groups": 2, "top_h": 0.4,
        "diversity_penalty": 0.5, "encoder_repetition_penalty": 1.2, "exponential_decay_length_penalty": [1, 1.1],
        "top_n_sigma": 1.0, "presence_penalty": 0.5,
    }  # fmt: skip
    assert unsupported_keys(raw) == sorted(raw)
    assert read_generation_config(raw) == GenerationConfig(temperature=0)


def test_keys_that_narrow_a_draw_bias_it_or_end_it_are_read():
    raw = {
        "do_sample": True, "top_k": 0, "typical_p": 0.9, "epsilon_cutoff": 0.001, "eta_cutoff": 0.002, "max_time": 30,
        "sequence_bias": [[[1], 2.0], [[3, 4], -1]],
    }  # fmt: skip
    assert unsupported_keys(raw) == []
    assert read_generation_config(raw) == GenerationConfig(
        typical_p=0.9, epsilon_cutoff=0.001, eta_cutoff=0.002, max_time=30.0, logit_bias=(((1,), 2.0), ((3, 4), -1.0)),
    )  # fmt: skip


def test_beams_that_are_drawn_are_listed_and_not_searched():
    raw = {"do_sample": True, "num_beams": 4, "temperature": 0.7}
    assert unsupported_keys(raw) == ["num_beams"]
    config = read_generation_config(raw)
    assert (config.num_beams, config.temperature) == (1, 0.7)


def test_a_key_nobody_knows_is_listed():
    assert unsupported_keys({"chat_format": "chatml", "seed": 1, "stop": ["a"]}) == ["chat_format", "seed", "stop"]


def test_neutral_values_and_keys_without_effect_are_not_listed():
    raw = {
        "do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2, "stop_strings": None, "num_beams": 1,
        "typical_p": 1.0, "no_repeat_ngram_size": 0, "suppress_tokens": None, "begin_suppress_tokens": [],
        "bos_token_id": 1, "pad_token_id": 0, "max_length": 4096, "transformers_version": "5.0", "use_cache": True,
        "_from_model_config": True, "length_penalty": 2.0, "num_beam_groups": 1, "diversity_penalty": 0.0,
    }  # fmt: skip
    assert unsupported_keys(raw) == []


def test_every_field_describes_itself():
    for field in dataclasses.fields(GenerationConfig):
        assert field.metadata["help"].endswith(".")
        known = {"help", "range", "type", "multiple", "cli", "choices", "nested", "reader", "ours", "filter"}
        assert set(field.metadata) == known


def test_what_switches_a_filter_on_is_marked_as_one():
    marked = {f.name for f in dataclasses.fields(GenerationConfig) if f.metadata["filter"]}
    assert marked == {names[0] for _, names in FILTERS} - {"temperature"}  # which is off at 1, and greedy at its own 0


def test_command_line_options_are_the_fields_meant_for_it():
    options = {option.name: option for option in option_fields()}
    names = [f.name for f in dataclasses.fields(GenerationConfig)]
    assert list(options) == names[: names.index("eos_token_id")]
    assert (options["early_stopping"].type, options["early_stopping"].choices) == (str, ("false", "true", "never"))
    assert (options["top_k"].type, options["top_k"].default, options["top_k"].range) == (int, 0, Interval(0))
    assert (options["seed"].type, options["seed"].default, options["seed"].multiple) == (int, None, False)
    assert (options["stop"].type, options["stop"].range, options["stop"].multiple) == (str, None, True)
    assert str(options["top_p"].range) == "[0, 1]"


def test_a_schema_may_be_given_as_data_and_is_kept_as_text():
    for given, kept in (({"type": "null"}, '{"type": "null"}'), (True, "true"), ('{"a":1}', '{"a":1}')):
        config = GenerationConfig(json_schema=given)  # type: ignore[arg-type]
        assert config.constraints == [("json_schema", kept)]
    for wrong, message in (
        ({"a": {1, 2}}, "cannot be written as JSON: .*set"),
        (5, "json_schema is 5, but must be a non"),
    ):
        with pytest.raises(InvalidOption, match=message):
            GenerationConfig(json_schema=wrong)  # type: ignore[arg-type]


def test_one_thing_at_a_time_says_what_the_text_must_look_like():
    assert GenerationConfig(choice="a").constraints == [("choice", ("a",))]  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="json_schema and regex exclude each other: give one of them"):
        GenerationConfig(json_schema="{}", regex="a")
    with pytest.raises(InvalidOption, match="choice is empty: give at least one text"):
        GenerationConfig(choice=())


def test_a_checkpoint_cannot_constrain():
    assert read_generation_config({"regex": "a", "grammar": "b"}).constraints == []
    assert unsupported_keys({"json_schema": "{}"}) == ["json_schema"]
