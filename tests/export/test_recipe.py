"""Recipes: first match wins, presets by precision, files of a user's own rules, and every mistake named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelm.errors import InvalidOption
from edgelm_export.quantize.recipe import PRECISIONS, Recipe, preset, recipe_of
from edgelm_export.quantize.recipe_file import recipe_from_file, write_recipe

LAYERS = 30
GROUPS = [f"layers.{i}.{name}" for i in range(LAYERS) for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")]


def names(recipe: Recipe, *weights: str) -> list[str]:
    return [recipe.format_for(weight).name for weight in weights]


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_first_matching_rule_wins() -> None:
    recipe = Recipe("own", (("layers.0.*", "float16"), ("*.down_proj", "int8-b64"), ("*", "int4-b32")))
    found = names(recipe, "layers.0.down_proj", "layers.1.down_proj", "layers.1.o_proj", "lm_head")
    assert found == ["float16", "int8-b64", "int4-b32", "int4-b32"]


def test_a_weight_without_a_rule_is_an_error() -> None:
    with pytest.raises(InvalidOption, match=r"recipe own has no rule for lm_head; end it with a rule for '\*'"):
        Recipe("own", (("layers.*", "int4-b32"),)).format_for("lm_head")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_covers_every_weight(precision: str) -> None:
    recipe = preset(precision, LAYERS)
    assert recipe.name == precision
    for weight in [*GROUPS, "lm_head", "embed_tokens"]:
        recipe.format_for(weight)
    recipe.check_used()


def test_float_precisions_keep_everything() -> None:
    assert {form.name for form in map(preset("fp32", LAYERS).format_for, GROUPS)} == {"float32"}
    assert {form.name for form in map(preset("fp16", LAYERS).format_for, GROUPS)} == {"float16"}


def test_plain_int4_is_symmetric_with_an_eight_bit_head() -> None:
    recipe = preset("int4-plain", LAYERS)
    assert {form.name for form in map(recipe.format_for, GROUPS)} == {"int4-b32"}
    assert names(recipe, "lm_head", "embed_tokens") == ["int8-b128", "int8-b128"]


def test_default_int4_keeps_what_is_sensitive_at_eight_bits() -> None:
    recipe = preset("int4", LAYERS)
    found = names(recipe, "layers.9.qkv_proj", "layers.9.o_proj", "layers.9.gate_up_proj", "lm_head", "embed_tokens")
    assert found == ["int8-b128", "int4-b32-asym", "int4-b32-affine", "int8-b128", "int8-b128"]
    eight = [i for i in range(LAYERS) if recipe.format_for(f"layers.{i}.down_proj").bits == 8]
    assert eight == [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]


@pytest.mark.parametrize("layers", [1, 2, 3, 8, 80])
def test_presets_suit_any_depth(layers: int) -> None:
    recipe = preset("int4", layers)
    eight = sum(recipe.format_for(f"layers.{i}.down_proj").bits == 8 for i in range(layers))
    assert eight <= 0.6 * layers


def test_block_size_is_that_of_the_low_bits() -> None:
    assert names(preset("int4", LAYERS, 64), "layers.0.gate_up_proj", "lm_head") == ["int4-b64-affine", "int8-b128"]
    assert names(preset("int4-plain", LAYERS, 128), "layers.0.o_proj", "lm_head") == ["int4-b128", "int8-b128"]
    assert names(preset("int8", LAYERS, 32), "layers.0.o_proj", "lm_head") == ["int8-b32", "int8-b32"]
    assert names(preset("fp16", LAYERS, 32), "layers.0.o_proj") == ["float16"]


def test_an_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(
        InvalidOption,
        match=r"precision 'int5' is not known \(known: fp32, fp16, int8, int8-plain, int8-rows, int8-prefill, int4, int4-plain, "
        r"keep, keep-fast\)",
    ):
        preset("int5", LAYERS)


def test_a_block_size_that_kernels_lack_is_an_error() -> None:
    with pytest.raises(InvalidOption, match="block size 48 is not one of"):
        preset("int4", LAYERS, 48)


def test_the_manifest_gets_plain_data() -> None:
    recipe = preset("int4-plain", LAYERS)
    kept = [["*.router", "float32"], ["*.shared_gate", "float32"]]
    expected = {"name": "int4-plain", "rules": [*kept, ["*layers.*", "int4-b32"], ["*", "int8-b128"]]}
    assert recipe.as_manifest() == expected
    assert json.loads(json.dumps(recipe.as_manifest())) == expected


def test_rules_of_a_file_come_before_its_precision(tmp_path: Path) -> None:
    path = write(tmp_path, 'precision = "int4-plain"\n[rules]\n"layers.0.*" = "float16"\n"lm_head" = "int8-b32"\n')
    recipe = recipe_from_file(path, LAYERS, 64)
    found = names(recipe, "layers.0.o_proj", "layers.1.o_proj", "lm_head", "embed_tokens")
    assert found == ["float16", "int4-b64", "int8-b32", "int8-b128"]
    assert recipe.name == "recipe.toml"
    recipe.check_used()


def test_a_file_may_be_json_and_stand_alone(tmp_path: Path) -> None:
    path = write(tmp_path, '{"rules": {"lm_head": "int8-b64", "*": "int4-b32"}}', "own.json")
    assert recipe_from_file(path, LAYERS).rules == (("lm_head", "int8-b64"), ("*", "int4-b32"))


def test_rules_that_decide_nothing_are_all_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'precision = "int4"\n[rules]\n"layers.*" = "int8-b64"\n"layers.3.o_proj" = "float16"\n"*.q_proj" = "float16"\n',
    )
    recipe = recipe_from_file(path, LAYERS)
    for weight in [*GROUPS, "lm_head"]:
        recipe.format_for(weight)
    assert recipe.unused_rules() == (("layers.3.o_proj", "float16"), ("*.q_proj", "float16"))
    with pytest.raises(
        InvalidOption, match=r"recipe.toml: 'layers.3.o_proj', '\*.q_proj' decided the format of no weight"
    ):
        recipe.check_used()


def test_rules_that_only_a_preset_added_may_stay_unused(tmp_path: Path) -> None:
    recipe = recipe_from_file(write(tmp_path, 'precision = "int4"\n[rules]\n"*" = "int8-b64"\n'), LAYERS)
    recipe.format_for("lm_head")
    recipe.check_used()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules = 3", "'rules' must be a table of glob = format name"),
        ('[rules]\n"*" = 4', "'rules' must be a table of glob = format name"),
        ('[rules]\n"*" = "q4_0"', "recipe.toml: weight format 'q4_0' is not known"),
        ('precision = "int5"', "recipe.toml: precision 'int5' is not known"),
        ('formats = "int4"\nblock = 3', "block, formats is no part of a recipe"),
        ('name = ""', "'name' must be a text"),
        ("name = 3", "'name' must be a text"),
        ("calibrated = 1", "'calibrated' must be true or false"),
        ("[rules", "recipe.toml: the recipe is neither TOML nor JSON"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        recipe_from_file(write(tmp_path, text), LAYERS)


def test_a_file_says_whether_it_is_calibrated(tmp_path: Path) -> None:
    def compensates(text: str) -> bool:
        return recipe_from_file(write(tmp_path, text), LAYERS).compensates

    assert not compensates('precision = "int4"')
    assert not compensates('[rules]\n"*" = "int4-b32"')
    assert not compensates('calibrated = false\n[rules]\n"*" = "int4-b32"')
    assert compensates('precision = "int4-plain"\ncalibrated = true')


def test_formats_of_a_decoder_become_few_rules() -> None:
    forms = {name: "int8-b64" if "down" in name else "int4-b32" for name in GROUPS} | {"lm_head": "int8-b32"}
    forms["layers.12.down_proj"] = "int4-b128"
    recipe = recipe_of("found", forms, Recipe("", (), compensates=True))
    assert {name: recipe.format_for(name).name for name in forms} == forms
    assert recipe.compensates
    used = recipe.used()
    assert used.rules[0] == ("layers.12.down_proj", "int4-b128")
    assert len(used.rules) == 6
    used.check_used()


def test_a_recipe_written_to_a_file_is_read_back_the_same(tmp_path: Path) -> None:
    rules = (("layers.0.*", "int8-b32"), ('odd "name" \\ *', "float16"), ("*", "int4-b32"))
    recipe = Recipe("max-kld-0.1", rules, compensates=True, moments=lambda _: None)
    write_recipe(tmp_path / "found.toml", recipe.as_manifest())
    again = recipe_from_file(tmp_path / "found.toml", LAYERS)
    assert (again.name, again.rules, again.compensates) == ("max-kld-0.1", rules, True)


def test_a_recipe_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="the recipe cannot be written: .*; the package itself is complete"):
        write_recipe(tmp_path / "absent" / "found.toml", Recipe("a", ()).as_manifest())


def test_a_file_that_is_no_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="a recipe is a table with 'precision' and 'rules'"):
        recipe_from_file(write(tmp_path, "[1, 2]", "own.json"), LAYERS)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"absent.toml: the recipe cannot be read"):
        recipe_from_file(tmp_path / "absent.toml", LAYERS)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidOption, match=r"binary.toml: the recipe cannot be read"):
        recipe_from_file(tmp_path / "binary.toml", LAYERS)


def test_eight_bits_of_an_encoder_round_its_inputs_too() -> None:
    recipe = preset("int8", LAYERS, family="encoder")
    assert names(recipe, "layers.3.qkv_proj", "embed_tokens", "classifier") == [
        "int8-dynamic",
        "int8-b128",
        "int8-b128",
    ]
    assert recipe.wants_ranges
    plain = preset("int8-plain", LAYERS, family="encoder")
    assert names(plain, "layers.3.qkv_proj") == ["int8-b128"]
    assert not plain.wants_ranges
    assert not preset("int8", LAYERS).wants_ranges


def test_what_many_rows_run_through_has_one_scale_a_row() -> None:
    recipe = preset("int8", LAYERS, family="encoder-decoder")
    found = names(recipe, "decoder.layers.3.cross.q_proj", "decoder.layers.3.cross.kv_proj", "lm_head", "embed_tokens")
    assert found == ["int8-rows", "int8-rows", "int8-rows", "int8-b128"]
    assert recipe.wants_ranges
    assert names(preset("int4", LAYERS, family="encoder-decoder"), "lm_head") == ["int8-rows"]
    assert names(preset("int8", LAYERS), "layers.3.qkv_proj", "lm_head") == ["int8-b128", "int8-b128"]


def test_a_block_size_asks_for_blocks() -> None:
    recipe = preset("int8", LAYERS, 32, family="encoder-decoder")
    assert names(recipe, "decoder.layers.3.o_proj", "lm_head", "embed_tokens") == ["int8-b32", "int8-b32", "int8-b32"]


def test_a_file_builds_on_the_presets_of_its_family(tmp_path: Path) -> None:
    path = write(tmp_path, 'precision = "int8"\n[rules]\n"layers.0.*" = "float16"\n')
    recipe = recipe_from_file(path, LAYERS, family="encoder")
    assert names(recipe, "layers.0.o_proj", "layers.1.o_proj") == ["float16", "int8-dynamic"]


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000])
def test_json_made_to_exhaust_a_reader_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"own.json: the recipe is neither TOML nor JSON"):
        recipe_from_file(write(tmp_path, text, "own.json"), LAYERS)


def test_whole_rows_of_a_decoder_leave_experts_and_routers_as_kernels_want_them() -> None:
    names_of = ("layers.3.qkv_proj", "layers.3.experts", "layers.3.router", "lm_head", "embed_tokens")
    found = names(preset("int8-rows", LAYERS), *names_of)
    assert found == ["int8-rows", "int8-b128", "float32", "int8-rows", "int8-b128"]


def test_prompts_run_through_whole_rows_where_no_value_stands_out() -> None:
    names_of = ("layers.3.qkv_proj", "layers.3.down_proj", "layers.3.shared.down_proj", "layers.3.experts", "lm_head")
    recipe = preset("int8-prefill", LAYERS)
    assert names(recipe, *names_of) == ["int8-rows", "int8-b128", "int8-b128", "int8-b128", "int8-b128"]
    assert recipe.wants_ranges
    for family in ("encoder", "encoder-decoder"):
        assert preset("int8-prefill", LAYERS, family=family).rules == preset("int8", LAYERS, family=family).rules
