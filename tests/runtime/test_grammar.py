"""Constrained output on a decoder of random logits: whatever it wants to say, only what fits comes out."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgelm import generation
from edgelm.errors import GenerationError, InvalidOption
from edgelm.generation import Generation, Request
from edgelm.generation_config import GenerationConfig
from edgelm.tokenizer import Tokenizer
from tests.runtime.fake_decoder import FakeDecoder, Logits, random_logits
from tests.runtime.tokenizer_kinds import INSEPARABLE, KINDS

TOKENIZERS = {name: Tokenizer(build(), {}) for name, build in KINDS.items()}
SEPARABLE = [name for name in KINDS if name not in INSEPARABLE]
END = 2  # </s> of all kinds
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog", "fish"]}, "maxItems": 3},
        "note": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["name", "age", "pets", "note"],
    "additionalProperties": False,
}


def generate(kind: str, count: int = 1, beyond: int = 0, **options: Any) -> list[Generation]:
    """Draws from random logits, `beyond` more than there are tokens, for `count` different prompts in a batch."""
    tokenizer = TOKENIZERS[kind]
    vocab_size = tokenizer.vocab_size + beyond
    decoder = FakeDecoder(random_logits(vocab_size), vocab_size, 400)
    config = GenerationConfig(
        **{"temperature": 1.5, "seed": 1, "eos_token_id": (END,), "max_new_tokens": 200, **options}
    )
    requests = [Request([5 + i]) for i in range(count)]
    found = generation.generate(decoder, requests, config, tokenizer)
    return [one for group in found for one in group]


@pytest.mark.parametrize("kind", SEPARABLE)
def test_text_fits_an_expression_with_a_tokenizer_of_any_kind(kind: str) -> None:
    pattern = r"[a-z]+( [a-z]+){1,3}"
    found = generate(kind, 12, regex=pattern)
    for one in found:
        assert one.finish_reason == "stop"
        assert re.fullmatch(pattern, one.text), one.text
        assert one.text == TOKENIZERS[kind].decode(one.token_ids)
    assert len({one.text for one in found}) > 6


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_json_meets_its_schema_and_text_is_that_of_the_ids(kind: str) -> None:
    for one in generate(kind, 20, json_schema=PERSON):
        assert one.finish_reason == "stop"
        assert one.text == TOKENIZERS[kind].decode(one.token_ids)
        jsonschema.validate(json.loads(one.text), PERSON)


def test_a_first_token_with_a_space_stands_for_the_word_without_it() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    word = tokenizer.token_id("\u2581t")
    assert word is not None

    def following(ids: Any) -> Logits:
        logits = np.zeros(tokenizer.vocab_size, np.float32)
        logits[word] = 9
        return logits

    config = GenerationConfig(temperature=0, eos_token_id=(END,), regex="t t", max_new_tokens=9)
    ((found,),) = generation.generate(FakeDecoder(following, tokenizer.vocab_size), [Request([5])], config, tokenizer)
    assert found.token_ids == [word, word]
    assert found.text == "t t"


def test_the_text_may_begin_with_a_space_that_the_decoder_would_drop() -> None:
    for kind in ("sentencepiece", "unigram"):
        assert [one.text for one in generate(kind, 3, regex=" the")] == [" the"] * 3


@pytest.mark.parametrize("kind", SEPARABLE)
def test_a_choice_is_one_of_the_texts(kind: str) -> None:
    words = ("a", "c", "d e") if kind == "without decoder" else ("the", "then", "that")
    found = {one.text for one in generate(kind, 25, choice=words)}
    assert found <= set(words)
    assert len(found) > 1


@pytest.mark.parametrize(
    "word", ["\n", "a|b", "(", "\\d", "^$", "[x]", "caf\u00e9 \U0001f600", "a\x00b", '"', "/", " "]
)
def test_a_choice_is_literal(word: str) -> None:
    assert generate("byte-level", choice=[word])[0].text == word


def test_a_grammar_of_rules_is_followed() -> None:
    grammar = 'start: sum\nsum: NUMBER | sum "+" NUMBER | "(" sum ")"\nNUMBER: /[1-9][0-9]?/'
    for one in generate("byte-level", 20, grammar=grammar, max_new_tokens=300):
        assert one.finish_reason == "length" or isinstance(eval(one.text, {"__builtins__": {}}), int)
    assert "stop" in {one.finish_reason for one in generate("byte-level", 20, grammar=grammar)}


def test_any_json_is_a_schema_too() -> None:
    for schema in (True, {}, "{}", "true"):
        (one,) = generate("byte-level", json_schema=schema)
        assert one.finish_reason == "length" or json.loads(one.text) is not Ellipsis
    for one in generate("byte-level", 5, json_schema={"type": "object", "additionalProperties": False}):
        assert json.loads(one.text) == {}


def test_a_grammar_may_name_special_tokens_which_have_no_text() -> None:
    (one,) = generate("sentencepiece", grammar='start: "a" <s> "b"')
    assert one.text == "ab"
    assert one.token_ids[1] == 1


def test_ends_come_exactly_when_the_text_is_complete() -> None:
    tokenizer = TOKENIZERS["byte-level"]

    def wants_to_end(ids: Any) -> Logits:
        logits = np.zeros(tokenizer.vocab_size, np.float32)
        logits[END] = 100
        return logits

    decoder = FakeDecoder(wants_to_end, tokenizer.vocab_size)
    config = GenerationConfig(eos_token_id=(END,), regex="[ab]{3,9}", seed=1)
    ((one,),) = generation.generate(decoder, [Request([5])], config, tokenizer)
    assert (len(one.text), one.finish_reason) == (3, "stop")


def test_fewest_tokens_are_kept_where_the_grammar_goes_on() -> None:
    for one in generate("byte-level", 5, regex="[ab]+", min_new_tokens=8):
        assert len(one.token_ids) >= 8


@pytest.mark.parametrize(
    "options",
    [
        {"choice": ["a"], "min_new_tokens": 5},
        {"regex": "xx", "bad_words_ids": [[TOKENIZERS["byte-level"].token_id("x")]]},
        {"regex": "qqqqqqqq", "no_repeat_ngram_size": 1},
    ],
    ids=["too short", "bad word", "no repetition"],
)
def test_settings_that_contradict_the_grammar_leave_no_token(options: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match=r"forbid every token; relax .* or the schema, regex, choice or grammar"):
        generate("byte-level", **options)


def test_what_is_cut_off_says_so() -> None:
    (one,) = generate("byte-level", json_schema=PERSON, max_new_tokens=4)
    assert (one.finish_reason, len(one.token_ids)) == ("length", 4)
    assert '{"name": "'.startswith(one.text[:10])


def test_a_stop_text_ends_before_the_grammar_does() -> None:
    (one,) = generate("byte-level", regex="ab{2}c+", stop="c")
    assert (one.text, one.finish_reason) == ("abb", "stop")


def test_logits_beyond_the_tokenizer_are_never_chosen() -> None:
    size = TOKENIZERS["byte-level"].vocab_size
    assert all(max(one.token_ids) < size for one in generate("byte-level", 5, 100, regex="[a-z]{5}"))
    assert generate("byte-level", 1, -1, regex="[a-z]{5}")[0].finish_reason == "stop"


def test_beams_go_back_and_forth_in_the_grammar() -> None:
    for kind in ("byte-level", "sentencepiece"):
        found = generate(kind, 3, json_schema=PERSON, num_beams=4, num_return_sequences=3, temperature=0)
        assert len(found) == 9
        for one in found:
            assert one.finish_reason == "stop"
            jsonschema.validate(json.loads(one.text), PERSON)


def test_a_row_does_not_depend_on_its_batch() -> None:
    batch = generate("byte-level", 5, json_schema=PERSON)
    tokenizer = TOKENIZERS["byte-level"]
    decoder = FakeDecoder(random_logits(tokenizer.vocab_size), tokenizer.vocab_size, 400)
    config = GenerationConfig(temperature=1.5, seed=1, eos_token_id=(END,), max_new_tokens=200, json_schema=PERSON)  # type: ignore[arg-type]
    ((alone,),) = generation.generate(decoder, [Request([8])], config, tokenizer)
    assert batch[3].token_ids == alone.token_ids


def test_spaces_are_not_cleaned_up_in_constrained_text() -> None:
    tokenizer = Tokenizer(KINDS["unigram"](), {"clean_up_tokenization_spaces": True})
    decoder = FakeDecoder(random_logits(tokenizer.vocab_size), tokenizer.vocab_size)
    config = GenerationConfig(eos_token_id=(END,), regex=r"a \. b", seed=1)
    ((one,),) = generation.generate(decoder, [Request([5])], config, tokenizer)
    assert one.text == "a . b"
    assert tokenizer.decode(one.token_ids) == "a. b"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("json_schema", "{", r"option json_schema is no JSON \(Expecting"),
        ("json_schema", "[1]", r"option json_schema is \[1\], but must be an object"),
        ("json_schema", "false", r"option json_schema is false, but must be an object"),
        ("json_schema", {"type": "banana"}, r"option json_schema: at #: Invalid type: banana"),
        (
            "json_schema",
            {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "banana"}}}},
            r"option json_schema: at #/properties/a/items: Invalid type: banana",
        ),
        (
            "json_schema",
            {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "("}]}}},
            r"at #/properties/a/anyOf/1: .*unclosed group",
        ),
        ("json_schema", {"$ref": "#/$defs/x"}, r"option json_schema: at #: Pointer '/\$defs/x' does not exist"),
        ("json_schema", {"$ref": "#"}, r"option json_schema: every value holds another one .* at #/\$ref"),
        (
            "json_schema",
            {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
            r"without end, at #/properties/x/\$ref; let it be left out or be null there",
        ),
        ("json_schema", {"type": "string", "minLength": 3, "maxLength": 1}, r"json_schema: at #: Unsatisfiable schema"),
        ("json_schema", {"not": {"type": "null"}}, r"option json_schema: at #: Unimplemented keys: \[\"not\"\]"),
        ("regex", "(", r"option regex: invalid regex .*unclosed group"),
        ("regex", r"(a)\1", r"option regex: .*backreferences are not supported"),
        ("regex", "\ud800", r"option regex holds half a surrogate pair"),
        ("grammar", 'start: "a" )', r"option grammar: 1\(\d+\): "),
        ("grammar", 'start: "a" b', r"option grammar: at 1\(8\): unknown name: \"b\""),
        ("grammar", 'begin: "a"', r"option grammar: no start rule found"),
        ("grammar", "start: x\nx: x", r"option grammar: no text fits it, because every rule needs another one"),
        ("grammar", 'start: A\nA: "x" A', r"option grammar: at 2\(4\): circular reference in token"),
        ("grammar", 'start: %json {"type": "banana"}', r"option grammar: .*Invalid type: banana"),
        ("choice", ["\udfff"], r"option choice holds half a surrogate pair"),
    ],
)
def test_what_is_no_grammar_is_refused_with_its_place(option: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message) as caught:
        generate("byte-level", **{option: value})
    assert "\n" not in str(caught.value)


def test_what_would_exhaust_the_compiler_is_refused() -> None:
    chain = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(20_000)} | {"a20000": {"type": "null"}}
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    rules = "\n".join(f'a{i}: "x" a{i + 1}' for i in range(20_000))
    wrong: list[tuple[str, Any, str]] = [
        (
            "json_schema",
            {"$defs": chain, "$ref": "#/$defs/a0"},
            r"is nested 1 levels deep, 20002 with all it refers to",
        ),
        ("json_schema", deep, r"is nested 301 levels deep"),
        (
            "json_schema",
            '{"items":' * 5_000 + "{}" + "}" * 5_000,
            r"option json_schema is no JSON \(nested too deeply\)",
        ),
        (
            "grammar",
            f'start: a0\n{rules}\na20000: "y"',
            r"option grammar has about 20002 rules and 1500 can be compiled",
        ),
    ]
    for option, value, message in wrong:
        with pytest.raises(InvalidOption, match=message):
            generate("byte-level", 1, 0, **{option: value})


def test_recursion_that_may_end_is_allowed() -> None:
    tree = {
        "$defs": {"node": {"type": "object", "properties": {"left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                           "required": ["left"], "additionalProperties": False}},
        "$ref": "#/$defs/node",
    }  # fmt: skip
    for one in generate("byte-level", 8, json_schema=tree):
        assert one.finish_reason == "length" or jsonschema.validate(json.loads(one.text), tree) is None


def test_a_model_without_an_end_token_cannot_be_constrained() -> None:
    with pytest.raises(
        InvalidOption,
        match="option regex needs an end token, and this model has none; give eos_token_id or stop_token_ids",
    ):
        generate("byte-level", regex="a", eos_token_id=())


@pytest.mark.parametrize("kind", INSEPARABLE)
def test_a_tokenizer_that_reads_several_tokens_at_once_is_refused(kind: str) -> None:
    with pytest.raises(GenerationError, match="cannot be told token by token"):
        generate(kind, regex="a")


def test_a_missing_llguidance_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    tokenizer = Tokenizer(KINDS["byte-level"](), {})
    with pytest.raises(
        GenerationError, match=r"needs llguidance, which is not installed: pip install 'edgelm\[grammar\]'"
    ):
        tokenizer.vocabulary  # noqa: B018
