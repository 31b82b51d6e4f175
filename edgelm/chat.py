"""Chat templates: messages in, prompt text out, rendered in jinja2's sandbox with the settings transformers uses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from edgelm.errors import GenerationError, InvalidOption
from edgelm.tokenizer import read_tokenizer_config


class ChatTemplate:
    """A compiled chat template of a checkpoint."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compiles the template.

        Args:
            source: jinja2 text.
            special_tokens: what the template may use by name, as `bos_token`.

        Raises:
            GenerationError: it is no valid template.
        """
        import jinja2

        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise GenerationError(
                f"the chat template cannot be compiled: {error}; use --raw, or correct chat_template.jinja"
            ) from error

    @classmethod
    def from_folder(cls, folder: Path, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
        """chat_template.jinja, else the one in tokenizer_config.json; None without any."""
        file = folder / "chat_template.jinja"
        if file.is_file():
            return cls(file.read_text(encoding="utf-8"), special_tokens)
        source = read_tokenizer_config(folder).get("chat_template")
        if isinstance(source, list):  # several templates by name
            named = {str(entry["name"]): entry["template"] for entry in cast(list[dict[str, Any]], source)}
            source = named.get("default", next(iter(named.values()), None))
        return cls(source, special_tokens) if isinstance(source, str) else None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """The prompt a conversation becomes.

        Raises:
            InvalidOption: a message without a role.
            GenerationError: the template refuses the messages or does what the sandbox forbids.
        """
        for message in messages:
            if "role" not in message:
                raise InvalidOption(f"message {dict(message)!r} has no role; each needs role and content")
        try:
            return self._template.render(
                messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except Exception as error:  # a template is foreign code: whatever it raises is its refusal
            raise GenerationError(f"the chat template refuses these messages: {error}") from error


def _environment() -> Any:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise GenerationError(message)

    def tojson(value: Any, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent, **options)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    environment: Any = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment
