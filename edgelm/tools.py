"""What a chat may be asked for beside an answer, as OpenAI's chat completions spell it: calls of tools, or an answer in a format.

Tools and formats in; variables of the chat template, generation options and, from the answer, the calls out.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from edgelm.errors import InvalidOption
from edgelm.generation import Chunk, Generation, ToolCall
from edgelm.json_schema import read_schema

_FORCED = '"auto", "none", "required" or {"type": "function", "function": {"name": ...}}'


@dataclass(frozen=True)
class Dialect:
    """How a family of models writes a call: JSON with the tool's name and its arguments, between two marks."""

    begin: str = ""
    end: str = ""
    arguments: str = "arguments"


HERMES = Dialect("<tool_call>", "</tool_call>")
LLAMA = Dialect(arguments="parameters")
PLAIN = Dialect()

_MARKED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def find_dialect(template: str) -> Dialect:
    """The dialect that a chat template teaches; PLAIN where it teaches one that is not known here, or none."""
    # GLM's and Qwen Coder's templates have the same marks around something that is no JSON.
    if HERMES.begin in template and not any(mark in template for mark in ("<arg_key>", "<function=")):
        return HERMES
    return LLAMA if '"parameters": dictionary' in template.replace("\\", "") else PLAIN


@dataclass(frozen=True)
class Wish:
    """What one chat request asks for.

    Attributes:
        template: variables for the chat template.
        options: generation options.
        names: the tools whose calls are looked for in the answer.
    """

    template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    names: frozenset[str] = frozenset()

    def combined(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The generation options, with those that the caller gave.

        Raises:
            InvalidOption: the caller gave one of them too.
        """
        twice = sorted(self.options.keys() & options.keys())
        if twice:
            raise InvalidOption(
                f"{twice[0]} and a response_format or tool_choice both say what the answer looks like; give one of them"
            )
        return {**options, **self.options}

    def read(self, done: Generation | list[Generation]) -> Any:
        """The answer, or each of several, with the calls that are in it; it then ended for them."""
        if isinstance(done, list):
            return [self.read(one) for one in done]
        calls = find_calls(done.text, self.names)
        reason = "tool_calls" if calls and done.finish_reason == "stop" else done.finish_reason
        return dataclasses.replace(done, tool_calls=calls, finish_reason=reason)

    def follow(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same for an answer that comes in pieces; the last one has the calls."""
        text = ""
        for chunk in chunks:
            text += chunk.text
            if chunk.finish_reason is None:
                yield chunk
            else:
                calls = find_calls(text, self.names)
                reason = "tool_calls" if calls and chunk.finish_reason == "stop" else chunk.finish_reason
                yield dataclasses.replace(chunk, tool_calls=calls, finish_reason=reason)


def read_wish(
    dialect: Dialect,
    is_special: Callable[[str], bool],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    tool_choice: str | Mapping[str, Any] | None,
    response_format: Mapping[str, Any] | None,
) -> Wish:
    """Checks what a request asks for.

    Args:
        dialect: how the model writes calls.
        is_special: whether a text is a token that has no text.
        tools: {"type": "function", "function": {"name", "description", "parameters"}} each.
        tool_choice: "auto" (the default), "none", "required", or the tool that must be called.
        response_format: {"type": "text"}, {"type": "json_object"}, or {"type": "json_schema", "json_schema": {"schema"}}.

    Raises:
        InvalidOption: one of them is not of that form.
    """
    options = _format_options(response_format)
    functions = [_function(tool, position) for position, tool in enumerate(tools or ())]
    wanted = _wanted(tool_choice, functions)
    if tool_choice == "none" or not functions:
        return Wish(options=options)
    if wanted:
        options = {**options, "grammar": call_grammar(wanted, dialect, is_special)}
    return Wish({"tools": list(tools or ())}, options, frozenset(function["name"] for function in functions))


def find_calls(text: str, names: frozenset[str]) -> tuple[ToolCall, ...]:
    """The calls of these tools in an answer: those between marks, or the answer as a whole."""
    if not names:
        return ()
    marked = _MARKED.findall(text)
    values = [_json(part) for part in marked] if marked else [_json(text)]
    # Mistral's models write one list of calls.
    flat = [one for value in values for one in (cast("list[Any]", value) if isinstance(value, list) else [value])]
    return tuple(call for call in map(_call, flat) if call is not None and call.name in names)


def call_grammar(functions: Sequence[Mapping[str, Any]], dialect: Dialect, is_special: Callable[[str], bool]) -> str:
    """A grammar, in Lark's form, of one call of one of these functions."""
    begin, end = (_mark(mark, is_special) for mark in (dialect.begin, dialect.end))
    inside = " | ".join(f"call_{i}" for i in range(len(functions)))
    lines = [f'start: {begin} "\\n" call "\\n" {end}' if dialect.begin else "start: call", f"call: {inside}"]
    for i, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function["name"])}, "{dialect.arguments}": '
        schema = json.dumps(_arguments(function))
        lines += [f'call_{i}: {json.dumps(head)} arguments_{i} "}}"', f"arguments_{i}: %json {schema}"]
    return "\n".join(lines)


def _arguments(function: Mapping[str, Any]) -> Mapping[str, Any]:
    from edgelm.grammar import JSON_STYLE

    place = f"the parameters of tool {function['name']!r}"
    try:
        schema = read_schema(json.dumps(function.get("parameters") or {"type": "object"}), place)
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"{place} cannot be written as JSON: {error}") from error
    return {**schema, "x-guidance": JSON_STYLE}


def _mark(text: str, is_special: Callable[[str], bool]) -> str:
    """A mark in Lark's form: a special token goes by its name, other text in quotes."""
    return text if is_special(text) else json.dumps(text)


def _format_options(response_format: Mapping[str, Any] | None) -> dict[str, Any]:
    kind = None if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    schema = _mapping(response_format.get("json_schema")).get("schema")
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise InvalidOption(
            f"response_format is {str(response_format)[:80]}, but must be one of "
            '{"type": "text"}, {"type": "json_object"} and {"type": "json_schema", "json_schema": {"schema": {...}}}'
        )
    return {"json_schema": dict(cast("Mapping[str, Any]", schema))}


def _function(tool: Any, position: int) -> Mapping[str, Any]:
    known = _mapping(_mapping(tool).get("function"))
    if not isinstance(known.get("name"), str) or not known["name"]:
        raise InvalidOption(
            f'tools[{position}] must be {{"type": "function", "function": {{"name": ..., "parameters": {{...}}}}}}'
        )
    return known


def _wanted(choice: Any, functions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The functions one of which must be called; none where the model is free."""
    if choice in (None, "auto", "none"):
        return []
    named = _mapping(_mapping(choice).get("function")).get("name")
    if choice != "required" and named is None:
        raise InvalidOption(f"tool_choice is {str(choice)[:80]}, but must be {_FORCED}")
    found = [function for function in functions if named in (None, function["name"])]
    if not found:
        known = ", ".join(function["name"] for function in functions) or "there are none"
        raise InvalidOption(f"tool_choice asks for {named or 'a tool'}, which is not among the tools ({known})")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, or an empty one."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    call = cast("dict[str, Any]", value)
    arguments = call.get("arguments", call.get("parameters"))
    arguments = _json(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
        return None
    return ToolCall(call["name"], cast("dict[str, Any]", arguments))
