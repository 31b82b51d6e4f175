"""Messages in, prompt text out, through the chat template a model brings along, as transformers 5 renders it.

(transformers 4 passes keys whose value is None, and reasoning under one name only.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from types import CodeType
from typing import Any, cast

from edgelm.errors import GenerationError, InvalidOption, ManifestError
from edgelm.tokenizer import read_tokenizer_config

# Names in use for what a model thought before its answer; the first is what templates read.
_REASONING = ("reasoning_content", "thinking", "reasoning")
_NEXT_STEP = "use generate (or --raw) with a prompt of your own"


class ChatTemplate:
    """A Jinja template that turns a conversation into a prompt. It is compiled at first use, and sandboxed."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, tool_source: str | None = None) -> None:
        """Keeps the source.

        Args:
            source: the template.
            special_tokens: names templates read, such as bos_token, and their text.
            tool_source: the template for conversations with tools, where the model has one.
        """
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._tool_source = tool_source
        self._compiled: dict[str, tuple[CodeType, frozenset[str]]] = {}

    @classmethod
    def from_folder(cls, folder: Path, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
        """Reads chat_template.jinja, or else "chat_template" of tokenizer_config.json; None if there is neither.

        Raises:
            ManifestError: a file cannot be read, or holds named templates and no default.
        """
        path = folder / "chat_template.jinja"
        try:
            return cls(path.read_text(encoding="utf-8"), special_tokens)
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path} cannot be read ({error}); export the model again") from error
        templates = _named(read_tokenizer_config(folder).get("chat_template"), folder / "tokenizer_config.json")
        if not templates:
            return None
        return cls(templates["default"], special_tokens, tool_source=templates.get("tool_use"))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation.

        Args:
            messages: {"role", "content", ...} each, as the template expects them.
            add_generation_prompt: end with the start of the assistant's answer.
            tools: JSON schemas of functions the model may call.
            variables: what else the template reads, such as enable_thinking.

        Raises:
            InvalidOption: no messages, values that are no JSON, or a variable the template does not read.
            GenerationError: the template refuses the messages, or fails.
        """
        source = self.source if tools is None else self.tool_source
        code, read = self._compile(source)
        asked = variables.keys() if tools is None else variables.keys() | {"tools"}
        unread = sorted(asked - read)
        if unread:
            raise InvalidOption(
                f"the chat template does not read {', '.join(unread)}; it reads {', '.join(sorted(read))}"
            )
        given = {
            **self._special_tokens,
            "messages": _conversation(messages),
            "tools": _plain(tools, "tools"),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **{name: _plain(value, name) for name, value in variables.items()},
        }
        return _run(code, given)

    @property
    def tool_source(self) -> str:
        """The template that conversations with tools are rendered with."""
        return self.source if self._tool_source is None else self._tool_source

    def _compile(self, source: str) -> tuple[CodeType, frozenset[str]]:
        if source not in self._compiled:
            from jinja2 import meta

            from edgelm.chat_sandbox import ChatEnvironment

            environment = ChatEnvironment()
            try:
                read = meta.find_undeclared_variables(environment.parse(source))
                code = environment.compile(source)
            except Exception as error:  # the source is foreign: whatever goes wrong in it is its fault
                raise GenerationError(
                    f"the chat template does not compile{_line(error)}: {_reason(error)}; {_NEXT_STEP}"
                ) from error
            self._compiled[source] = code, frozenset(read)
        return self._compiled[source]


def _run(code: CodeType, variables: dict[str, Any]) -> str:
    from jinja2 import Template

    from edgelm.chat_sandbox import ChatEnvironment, Refused

    environment = ChatEnvironment()
    try:
        return Template.from_code(environment, code, environment.make_globals(None)).render(variables)
    except Refused as error:
        raise GenerationError(f"the chat template refuses these messages: {_reason(error)}") from error
    except Exception as error:  # foreign code: a TypeError in it is as much its fault as a breach of the sandbox
        raise GenerationError(f"the chat template fails{_line(error)}: {_reason(error)}; {_NEXT_STEP}") from error


def _reason(error: Exception) -> str:
    from jinja2 import TemplateError

    own = isinstance(error, TemplateError)
    text = (error.message if own else str(error)) or "no reason given"
    return " ".join((text if own else f"{type(error).__name__}: {text}").split())


def _line(error: Exception) -> str:
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    return f" in line {line}" if line else ""


def _named(value: Any, path: Path) -> dict[str, str]:
    """The templates of tokenizer_config.json by name: one text, or a list of {"name", "template"}."""
    if value is None or value == "":
        return {}
    listed = [{"name": "default", "template": value}] if isinstance(value, str) else value
    try:
        templates = {entry["name"]: entry["template"] for entry in listed}
    except (KeyError, TypeError):
        templates = {}
    if not all(isinstance(text, str) for text in (*templates, *templates.values())) or "default" not in templates:
        raise ManifestError(f"{path}: chat_template has no template named default; add chat_template.jinja beside it")
    return templates


def _conversation(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as templates get them: plain copies without empty keys, reasoning under all its names."""
    plain = _plain(messages, "messages")
    if not isinstance(plain, list | tuple) or not plain:
        raise InvalidOption('messages must be a list of at least one {"role": ..., "content": ...}')
    return [_message(message, position) for position, message in enumerate(cast("Sequence[Any]", plain))]


def _message(message: Any, position: int) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise InvalidOption(
            f'messages[{position}] must be {{"role": ..., "content": ...}}, not {type(message).__name__}'
        )
    filled = {key: value for key, value in cast("dict[str, Any]", message).items() if value is not None}
    reasoning = next((filled[name] for name in _REASONING if name in filled), None)
    return filled if reasoning is None else {"thinking": reasoning, **filled, "reasoning_content": reasoning}


def _plain(value: Any, where: str) -> Any:
    """A copy made of JSON's types alone, so that a template meets no object with methods of its own."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # also strips a subclass, an enum for one, down to its text
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in pairs}
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        copies = [_plain(item, f"{where}[{position}]") for position, item in enumerate(items)]
        return tuple(copies) if isinstance(value, tuple) else copies
    raise InvalidOption(
        f"{where} is {type(value).__name__}, but a chat template takes text, numbers, lists and mappings"
    )
