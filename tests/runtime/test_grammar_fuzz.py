"""Schemas, expressions and grammars nobody would write: an error of ours, or a text that fits. Never a crash."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.errors import GenerationError
from edgelm.generation import Generation
from tests.runtime.test_grammar import generate

_WORDS = st.sampled_from(["a", "b", "c"])
_SCALARS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("string")}, optional={"minLength": st.integers(0, 4), "maxLength": st.integers(0, 6)}
    ),
    st.fixed_dictionaries(
        {"type": st.just("integer")}, optional={"minimum": st.integers(-9, 9), "maximum": st.integers(-9, 9)}
    ),
    st.fixed_dictionaries(
        {"enum": st.lists(st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=3), max_size=3)}
    ),
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": "banana"}, {"type": []}, {}]),
    st.sampled_from([{"$ref": "#"}, {"$ref": "#/nowhere"}, {"not": {}}]),
)
_SCHEMAS = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(_WORDS, inner, max_size=2),
                "required": st.lists(_WORDS, max_size=2, unique=True),
                "additionalProperties": st.just(False),
            }
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner},
            optional={"minItems": st.integers(0, 2), "maxItems": st.integers(0, 3)},
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=2)}),
    ),
    max_leaves=5,
)
_KEYWORDS = ["type", "properties", "items", "required", "$ref", "anyOf", "enum", "pattern", "x-guidance"]
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYWORDS), inner, max_size=3),
    max_leaves=6,
)


def attempt(**options: Any) -> Generation | None:
    """The text, or None where an error of ours says that there is none."""
    try:
        return generate("byte-level", 1, 0, **{"max_new_tokens": 40, **options})[0]
    except GenerationError:
        return None


@settings(max_examples=80, deadline=None)
@given(schema=_SCHEMAS, seed=st.integers(0, 9))
def test_json_meets_whatever_schema_is_taken(schema: dict[str, Any], seed: int) -> None:
    found = attempt(json_schema=schema, seed=seed)
    if found is not None and found.finish_reason == "stop":
        # A schema that is itself invalid in a part that no value has to meet is taken by both.
        assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(found.text))


@settings(max_examples=60, deadline=None)
@given(schema=_ANYTHING)
def test_anything_may_be_given_as_a_schema(schema: Any) -> None:
    attempt(json_schema=schema if isinstance(schema, dict) else json.dumps(schema), max_new_tokens=3)


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=12) | st.text("ab()[]{}|*+?\\^$.-/01,", min_size=1, max_size=12))
def test_anything_may_be_given_as_an_expression_or_a_grammar(text: str) -> None:
    attempt(regex=text, max_new_tokens=3)
    attempt(grammar=text, max_new_tokens=3)
    attempt(grammar=f"start: {text}", max_new_tokens=3)


@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_choice_is_what_was_given(words: list[str]) -> None:
    found = attempt(choice=words)
    assert found is not None
    assert found.text in words


@settings(max_examples=40, deadline=None)
@given(pattern=st.from_regex(r"\A([a-c]|\[a-c\]|\([ab]\|c\))([*+?]|\{1,3\})?([a-c]|[01])?\Z"))
def test_text_is_matched_by_pythons_reading_of_the_expression(pattern: str) -> None:
    found = attempt(regex=pattern)
    assert found is not None
    if found.finish_reason == "stop":
        assert re.fullmatch(pattern, found.text)
