"""Tools and response formats in a chat, as OpenAI spells them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from edgelm.chat import ChatTemplate
from edgelm.errors import InvalidOption
from edgelm.generation import ToolCall
from edgelm.text_generation import DecoderModel
from edgelm.tools import HERMES, LLAMA, PLAIN, call_grammar, find_calls, find_dialect

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"city": {"enum": ["Oslo", "Bergen"]}},
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": 'the "clock"', "parameters": {"type": "object", "additionalProperties": False}},
}
MESSAGES = [{"role": "user", "content": "Hi"}]
HERMES_TEMPLATE = (
    '{% for t in tools or [] %}{{ t | tojson }}{% endfor %}<tool_call>{"name": ..., "arguments": ...}</tool_call>'
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
OPTIONS: dict[str, Any] = {"max_new_tokens": 120, "temperature": 1.5, "seed": 4, "eos_token_id": (2,)}


@pytest.fixture
def hermes(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> DecoderModel:
    """A model whose template teaches Hermes' calls."""
    monkeypatch.setattr(model, "chat_template", ChatTemplate(HERMES_TEMPLATE, {}))
    return model


@pytest.mark.parametrize(
    ("template", "dialect"),
    [
        ('Use <tool_call>{"name": <function-name>, "arguments": <args>}</tool_call>', HERMES),
        ('Respond with {"name": function name, "parameters": dictionary of argument name and its value}', LLAMA),
        ('Respond with {\\"name\\": function name, \\"parameters\\": dictionary of argument', LLAMA),
        ("<tool_call>\n<function=name>", PLAIN),
        ("<tool_call>name <arg_key>", PLAIN),
        ("no tools at all", PLAIN),
    ],
)
def test_the_template_tells_how_calls_are_written(template: str, dialect: Any) -> None:
    assert find_dialect(template) == dialect


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [("f", {"a": 1})]),
        (
            'Let me see. <tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "g", "arguments": "{}"}',
            [("f", {}), ("g", {})],
        ),
        ('{"name": "f", "parameters": {"a": "b"}}', [("f", {"a": "b"})]),
        (
            ' [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"x": null}, "id": "1"}]',
            [("f", {}), ("g", {"x": None})],
        ),
        ('{"name": "unknown", "arguments": {}}', []),
        ('{"name": "f", "arguments": [1]}', []),
        ('<tool_call>{"name": "f", "argum', []),
        ('I would call {"name": "f", "arguments": {}}', []),
        ("[" * 5000, []),
        ("", []),
    ],
)
def test_calls_are_found_in_an_answer(text: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    assert find_calls(text, frozenset({"f", "g"})) == tuple(ToolCall(*call) for call in calls)


def test_a_required_call_is_one_that_meets_the_schema(hermes: DecoderModel) -> None:
    names: set[str] = set()
    for seed in range(6):
        options = {**OPTIONS, "seed": seed}
        done = hermes.chat(MESSAGES, tools=[WEATHER, CLOCK], tool_choice="required", **options)
        assert done.finish_reason == "tool_calls"
        (call,) = done.tool_calls
        names.add(call.name)
        if call.name == "weather":
            jsonschema.validate(call.arguments, WEATHER["function"]["parameters"])
        assert done.text.startswith('<tool_call>\n{"name": "')
        assert done.text.endswith("}\n</tool_call>")
    assert names == {"weather", 'the "clock"'}


def test_a_named_tool_is_called(hermes: DecoderModel) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    done = hermes.chat(MESSAGES, tools=[CLOCK, WEATHER], tool_choice=choice, **OPTIONS)
    assert [call.name for call in done.tool_calls] == ["weather"]


def test_the_last_piece_of_a_stream_has_the_calls(hermes: DecoderModel) -> None:
    whole = hermes.chat(MESSAGES, tools=[WEATHER], tool_choice="required", **OPTIONS)
    chunks = list(hermes.stream_chat(MESSAGES, tools=[WEATHER], tool_choice="required", **OPTIONS))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert (chunks[-1].tool_calls, chunks[-1].finish_reason) == (whole.tool_calls, "tool_calls")
    assert all(not chunk.tool_calls for chunk in chunks[:-1])


def test_several_results_have_calls_of_their_own(hermes: DecoderModel) -> None:
    found: Any = hermes.chat(MESSAGES, tools=[WEATHER], tool_choice="required", num_return_sequences=2, **OPTIONS)
    assert [len(one.tool_calls) for one in found] == [1, 1]


def test_tools_go_into_the_template_unless_none_is_chosen(hermes: DecoderModel) -> None:
    with_tools = hermes.chat_ids(MESSAGES, tools=[CLOCK])
    done = hermes.chat(MESSAGES, tools=[CLOCK], max_new_tokens=1)
    assert done.metrics.prompt_tokens == len(with_tools)
    assert hermes.chat(MESSAGES, tools=[CLOCK], tool_choice="none", max_new_tokens=1).metrics.prompt_tokens == len(
        hermes.chat_ids(MESSAGES)
    )


def test_a_template_that_does_not_read_tools_is_told(model: DecoderModel) -> None:
    with pytest.raises(InvalidOption, match="the chat template does not read tools"):
        model.chat(MESSAGES, tools=[WEATHER])


def test_marks_that_are_special_tokens_go_by_their_names() -> None:
    rules = call_grammar([CLOCK["function"]], HERMES, lambda text: text == "<tool_call>")
    assert rules.splitlines()[0] == 'start: <tool_call> "\\n" call "\\n" "</tool_call>"'
    assert call_grammar([CLOCK["function"]], LLAMA, lambda text: False).splitlines()[:2] == [
        "start: call",
        "call: call_0",
    ]


def test_a_response_format_is_a_constraint(model: DecoderModel) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "number", "strict": True, "schema": schema}}
    assert json.loads(model.chat(MESSAGES, response_format=asked, **OPTIONS).text)["n"] in (1, 2)
    (last,) = list(
        model.stream_chat(MESSAGES, response_format={"type": "json_object"}, **{**OPTIONS, "max_new_tokens": 1})
    )
    assert last.text == "{"
    free = model.chat(MESSAGES, response_format={"type": "text"}, **OPTIONS)
    assert free.token_ids == model.chat(MESSAGES, **OPTIONS).token_ids


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"response_format": {"type": "yaml"}}, r"response_format is \{'type': 'yaml'\}, but must be one of"),
        ({"response_format": {"type": "json_schema"}}, r"response_format is .*, but must be one of"),
        (
            {"response_format": {"type": "json_object"}, "json_schema": "{}"},
            "json_schema and a response_format or tool_choice both",
        ),
        ({"tools": ["f"]}, r'tools\[0\] must be \{"type": "function"'),
        ({"tools": [WEATHER, {"type": "function", "function": {}}]}, r"tools\[1\] must be"),
        ({"tools": [WEATHER], "tool_choice": "perhaps"}, r'tool_choice is perhaps, but must be "auto", "none"'),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            r"tool_choice asks for x, which is not among the tools \(weather\)",
        ),
        ({"tool_choice": "required"}, r"tool_choice asks for a tool, which is not among the tools \(there are none\)"),
        (
            {"tools": [WEATHER], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "json_schema and grammar exclude each other",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}],
                "tool_choice": "required",
            },
            "the parameters of tool 'f': every value holds another one",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": {1}}}}],
                "tool_choice": "required",
            },
            "the parameters of tool 'f' cannot be written as JSON",
        ),
    ],
)
def test_what_is_not_of_openais_form_is_refused(hermes: DecoderModel, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        hermes.chat(MESSAGES, **wish)
