"""The expected prompts were rendered by transformers 5.23 from the same templates and messages."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.chat import ChatTemplate
from edgelm.errors import GenerationError, InvalidOption, ManifestError

LLAMA3 = """{%- for message in messages %}
    {%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}
    {%- if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.last == -1 and message.role == "user" and message.content is string %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if reasoning and loop.index0 > ns.last %}
            {{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"""
CHATML = """{% for message in messages %}
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}
{% endfor %}
{% if add_generation_prompt %}
    {{ '<|im_start|>assistant\n' }}
{% endif %}
"""
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
HI = [{"role": "user", "content": "Hi <b>'there' & \u00e9"}]
TURNS = [
    {"role": "user", "content": " Q1\n"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA1"},
    {"role": "user", "content": "Q2"},
]
TOOLS = [
    {"type": "function", "function": {"name": "get_\u00e9", "parameters": {"b": [1, 2.5, None, True], "a": "<&'\">"}}}
]


@pytest.mark.parametrize(
    ("template", "messages", "options", "expected"),
    [
        (
            LLAMA3,
            TURNS,
            {},
            "<s><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            "<think>\nhm\n</think>\n\nA1<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            LLAMA3,
            HI,
            {"add_generation_prompt": False},
            "<s><|start_header_id|>user<|end_header_id|>\n\nHi <b>'there' & \u00e9<|eot_id|>",
        ),
        (
            QWEN3,
            TURNS,
            {},
            "<|im_start|>user\n Q1\n<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            QWEN3,
            HI,
            {"enable_thinking": False},
            "<|im_start|>user\nHi <b>'there' & \u00e9<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        (
            QWEN3,
            HI,
            {"enable_thinking": True},
            "<|im_start|>user\nHi <b>'there' & \u00e9<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            QWEN3,
            HI,
            {"tools": TOOLS},
            '<|im_start|>system\n# Tools\n<tools>\n{"type": "function", "function": {"name": "get_\u00e9", "parameters": '
            '{"b": [1, 2.5, null, true], "a": "<&\'\\">"}}}\n</tools><|im_end|>\n'
            "<|im_start|>user\nHi <b>'there' & \u00e9<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            QWEN3,
            [*HI, {"role": "assistant", "content": "A", "reasoning": "why\n"}],
            {"add_generation_prompt": False},
            "<|im_start|>user\nHi <b>'there' & \u00e9<|im_end|>\n<|im_start|>assistant\n<think>\nwhy\n</think>\n\nA<|im_end|>\n",
        ),
        (MISTRAL, TURNS, {}, "<s>[INST]  Q1\n [/INST]<think>\nhm\n</think>\n\nA1</s>[INST] Q2 [/INST]"),
        (
            CHATML,
            TURNS,
            {},
            "<|im_start|>user\n Q1\n<|im_end|>\n\n<|im_start|>assistant\n<think>\nhm\n</think>\n\nA1<|im_end|>\n\n"
            "<|im_start|>user\nQ2<|im_end|>\n\n    <|im_start|>assistant\n\n",
        ),
    ],
)
def test_prompt_is_that_of_transformers(
    template: str, messages: list[dict[str, Any]], options: dict[str, Any], expected: str
) -> None:
    assert ChatTemplate(template, TOKENS).render(messages, **options) == expected


def render(source: str, messages: Any = HI, **options: Any) -> str:
    return ChatTemplate(source, TOKENS).render(messages, **options)


def test_template_refuses_messages_with_its_own_words() -> None:
    with pytest.raises(
        GenerationError, match=r"refuses these messages: Conversation roles must alternate user/assistant"
    ):
        render(MISTRAL, [*HI, *HI])


def test_loop_controls_and_generation_blocks_work() -> None:
    source = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{% set seen = 1 %}{{ m.content }}{% endgeneration %}{% endfor %}{{ seen }}"
    )
    assert render(source, TURNS) == " Q1\n"


def test_loop_knows_its_length_and_its_neighbours() -> None:
    source = "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ '.' if loop.last else ',' }}{% endfor %}"
    assert render(source, TURNS) == "1/3,2/3,3/3."
    assert render("{% for m in messages|map(attribute='role') %}{{ loop.length }}{{ m }}{% endfor %}") == "1user"
    assert render("{% for m in nothing %}x{% else %}none{% endfor %}") == "none"
    assert render("{% for m in [1, [2, 3]] recursive %}{{ loop(m) if m is iterable else m }}{% endfor %}") == "123"


def test_tojson_takes_the_options_of_transformers() -> None:
    source = "{{ {'b': '\u00e9<', 'a': 1}|tojson(%s) }}"
    assert render(source % "") == '{"b": "\u00e9<", "a": 1}'
    assert render(source % "ensure_ascii=True, sort_keys=True, separators=(',', ':')") == '{"a":1,"b":"\\u00e9<"}'
    assert render(source % "indent=1") == '{\n "b": "\u00e9<",\n "a": 1\n}'


def test_dict_and_namespace_work() -> None:
    assert render("{{ dict(a=1) }}{{ dict.fromkeys(['x'], 2) }}") == "{'a': 1}{'x': 2}"
    assert render("{% set n = namespace({'a': 1}, b=2) %}{% set n.c = 3 %}{{ n.a }}{{ n.b }}{{ n.c }}") == "123"


def test_text_operators_work() -> None:
    assert render("{{ 'a' ~ 1 ~ none }}{{ 'b' + 'c' }}{{ 'd' * 3 }}{{ '%s-%02d' % ('e', 7) }}") == "a1Nonebcddde-07"
    assert render("{{ '{:>3}|{}'.format('x', 1) }}{{ 'y'|center(3) }}{{ 2 ** 3 }}{{ 7 % 4 }}") == "  x|1 y 83"


def test_strftime_now_is_today() -> None:
    year = datetime.now().year
    assert int(render("{{ strftime_now('%Y') }}")) in (year, year + 1)


def test_template_sees_special_tokens_and_no_others() -> None:
    assert render("{{ bos_token }}{{ pad_token }}{{ eos_token }}") == "<s></s>"


def test_keys_without_a_value_are_left_out() -> None:
    assert render("{{ 'name' in messages[0] }}", [{"role": "user", "content": "x", "name": None}]) == "False"


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_found_under_the_names_templates_read(name: str) -> None:
    message = {"role": "assistant", "content": "x", name: "why"}
    assert render("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", [message]) == "whywhy"


def test_messages_of_the_caller_are_not_changed() -> None:
    messages = [{"role": "user", "content": ["a"]}]
    with pytest.raises(GenerationError, match="access to attribute 'append' of 'list' object is unsafe"):
        render("{{ messages[0].content.append('b') }}", messages)
    assert messages == [{"role": "user", "content": ["a"]}]


def test_subclasses_of_text_and_numbers_become_plain() -> None:
    class Role(StrEnum):
        USER = "user"

    message = {"role": Role.USER, "content": np.float64(0.5), "parts": ("a", True, 3)}
    assert render("{{ messages[0].role }} {{ messages[0].content }} {{ messages[0].parts }}", [message]) == (
        "user 0.5 ('a', True, 3)"
    )


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one"),
        ("Hi", "at least one"),
        ({"role": "user"}, "at least one"),
        (["Hi"], r"messages\[0\] must be .* not str"),
        (
            [{"role": "user", "content": object()}],
            r"messages\[0\]\['content'\] is object, but a chat template takes text",
        ),
        ([{"role": "user", "content": [b"x"]}], r"messages\[0\]\['content'\]\[0\] is bytes"),
    ],
)
def test_messages_that_are_none_are_refused(messages: Any, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        render(CHATML, messages)


def test_variables_the_template_does_not_read_are_refused() -> None:
    with pytest.raises(InvalidOption, match="does not read enable_thinking; it reads add_generation_prompt, messages"):
        render(CHATML, enable_thinking=False)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ messages['__class__'] }}",
        "{{ messages|attr('__class__') }}",
        "{{ messages|map(attribute='__class__')|list }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ dict.__class__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{% for m in messages %}{{ loop.__init__ }}{% endfor %}",
    ],
)
def test_template_cannot_reach_python(source: str) -> None:
    with pytest.raises(
        GenerationError, match=r"chat template fails in line 1: .*(not allowed|unsafe|underscore).*--raw"
    ):
        render(source)


@pytest.mark.parametrize("source", ["{% include 'x' %}", "{% import 'os' as os %}", "{% extends 'x' %}"])
def test_template_cannot_load_files(source: str) -> None:
    with pytest.raises(GenerationError, match="no loader"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% set s = 'x' * 90000 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
        "{% for a in [[0] * 90000] * 90 recursive %}{{ loop(a) if a is iterable }}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'x'|center(10 ** 10) }}",
        "{{ 'x'.ljust(10 ** 10) }}",
        "{{ 'x'|indent(10 ** 10, first=true) }}",
        "{{ ['x']|batch(10 ** 10, 'y')|list }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (10 ** 10, 1) }}",
        "{{ '%9999999999d'|format(1) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 10 ** 10) }}",
        "{{ ('a' * 90000)|replace('a', 'b' * 90000) }}",
        "{{ ('a' * 90000).replace('a', 'b' * 90000) }}",
        "{{ {}|tojson(indent=10 ** 10) }}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = [n.s, n.s]|join %}{% endfor %}",
        "{% set n = namespace(s='\"') %}{% for i in range(60) %}{% set n.s = n.s|tojson %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
        "{{ lipsum(n=10 ** 9) }}",
    ],
)
def test_template_without_bound_ends_in_an_error(source: str) -> None:
    with pytest.raises(GenerationError, match="the chat template fails in line"):
        render(source)


def test_long_conversation_stays_within_the_budget() -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": "word " * 400} for i in range(2001)]
    assert len(render(QWEN3, turns)) > 4_000_000


def test_failure_names_the_line() -> None:
    with pytest.raises(GenerationError, match=r"fails in line 3: 'foo' is undefined; use generate \(or --raw\)"):
        render("a\nb\n{{ foo() }}")
    with pytest.raises(GenerationError, match="fails in line 2: TypeError: can only concatenate"):
        render("\n{{ messages[0].content + 1 }}")


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ 'a'|nosuchfilter }}", "{{ " + "(" * 5000 + "}}", "{% generation %}"]
)
def test_template_that_does_not_compile_fails_at_first_use(source: str) -> None:
    template = ChatTemplate(source, TOKENS)
    with pytest.raises(
        GenerationError, match=r"does not compile.*; use generate \(or --raw\) with a prompt of your own"
    ):
        template.render(HI)


def test_renderings_in_threads_do_not_mix() -> None:
    template = ChatTemplate(CHATML, TOKENS)
    results: dict[int, str] = {}

    def work(number: int) -> None:
        for _ in range(20):
            results[number] = template.render([{"role": "user", "content": str(number)}], add_generation_prompt=False)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"<|im_start|>user\n{number}<|im_end|>\n\n" for number in range(4)}


def test_folder_without_a_template_gives_none(tmp_path: Path) -> None:
    assert ChatTemplate.from_folder(tmp_path, TOKENS) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": null}', encoding="utf-8")
    assert ChatTemplate.from_folder(tmp_path, TOKENS) is None


def folder_with(folder: Path, chat_template: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat_template}), encoding="utf-8")
    return folder


def test_template_file_comes_before_the_config(tmp_path: Path) -> None:
    folder_with(tmp_path, "config")
    template = ChatTemplate.from_folder(tmp_path, TOKENS)
    assert template is not None
    assert template.render(HI) == "config"
    (tmp_path / "chat_template.jinja").write_text("file \u00e9", encoding="utf-8")
    template = ChatTemplate.from_folder(tmp_path, TOKENS)
    assert template is not None
    assert template.render(HI) == "file \u00e9"


def test_named_templates_are_chosen_by_the_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with {{ tools|length }}"}]
    template = ChatTemplate.from_folder(folder_with(tmp_path, named), TOKENS)
    assert template is not None
    assert template.source == "plain"
    assert template.render(HI) == "plain"
    assert template.render(HI, tools=TOOLS) == "with 1"


@pytest.mark.parametrize("value", [7, ["x"], [{"name": "rag", "template": "x"}], [{"name": "default"}], {"default": 1}])
def test_templates_without_a_default_are_reported(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ManifestError, match=r"chat_template has no template named default; add chat_template\.jinja"):
        ChatTemplate.from_folder(folder_with(tmp_path, value), TOKENS)


def test_unreadable_template_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ManifestError, match=r"chat_template\.jinja cannot be read"):
        ChatTemplate.from_folder(tmp_path, TOKENS)
