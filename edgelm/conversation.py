"""A chat that goes on: history and settings in one place, no terminal. Texts in, pieces of answers out; saved and loaded as JSON."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from edgelm.errors import GenerationError, InvalidOption
from edgelm.generation import Chunk
from edgelm.generation_config import GenerationConfig, option_fields
from edgelm.metrics import Metrics
from edgelm.replacing import replacing

_FORMAT = "edgelm-chat-1"
_ROLES = ("user", "assistant")


class ChatModel(Protocol):
    """What a conversation needs of a model, which is DecoderModel or anything that does the same."""

    @property
    def defaults(self) -> GenerationConfig:
        """The settings that are not given."""
        ...

    def fit_chat(self, messages: list[dict[str, str]], /, **options: Any) -> Sequence[Mapping[str, Any]]:
        """A conversation without its oldest turns where it leaves no room for an answer."""
        ...

    def stream_chat(self, messages: Sequence[Mapping[str, Any]], /, **options: Any) -> Iterator[Chunk]:
        """The answer to a conversation, piece by piece."""
        ...


class Conversation:
    """One chat with a model.

    Attributes:
        system: the message that precedes all others, or None.
        messages: {"role", "content"} of what was said, without the system message; user and assistant take turns.
        unread: how many of the oldest messages the last answer was given without, because they no longer fit.
        metrics: those of the answers that were not interrupted, oldest first.
    """

    def __init__(self, model: ChatModel, system: str | None = None, settings: Mapping[str, Any] | None = None) -> None:
        """Begins.

        Args:
            model: answers.
            system: the message that precedes all others.
            settings: generation options for every answer.

        Raises:
            InvalidOption: an unknown setting, or a value that is not allowed.
        """
        self._model = model
        self._settings: dict[str, Any] = dict(settings or {})
        model.defaults.replace(**self._settings)
        self.system = system
        self.messages: list[dict[str, str]] = []
        self.unread = 0
        self.metrics: list[Metrics] = []

    @property
    def settings(self) -> dict[str, Any]:
        """The generation options that differ from the model's own, by name."""
        return dict(self._settings)

    def ask(self, text: str) -> Generator[Chunk]:
        """Says something and gives the answer piece by piece.

        The turn is remembered when its answer ends, or with what there is of it when the caller stops early (by closing
        this, or an interrupt). A turn that fails, or has no answer yet, is forgotten. A chat that has become too long is
        read without its oldest turns; they stay in `messages`.

        Raises:
            GenerationError: what `DecoderModel.stream_chat` raises; ContextOverflow when this turn alone is too long.
        """
        said = {"role": "user", "content": text}
        answer, failed = "", False
        try:
            chat = [*self._preceding(), said]
            read = self._model.fit_chat(chat, **self._settings)
            self.unread = len(chat) - len(read)
            for chunk in self._model.stream_chat(read, **self._settings):
                answer += chunk.text
                if chunk.metrics is not None:
                    self.metrics.append(chunk.metrics)
                yield chunk
        except GenerationError:
            failed = True
            raise
        finally:
            if answer and not failed:
                self.messages += [said, {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """Forgets what was said, not the settings or the system message."""
        self.messages, self.metrics, self.unread = [], [], 0

    def set(self, name: str, text: str) -> None:
        """Changes a setting as it is typed: a number, a word, or JSON; "default" gives the model's own back.

        Raises:
            InvalidOption: an unknown setting, or a value that is not allowed; the settings stay as they were.
        """
        changed = self.settings
        if text == "default":
            changed.pop(name, None)
            self._model.defaults.replace(**{name: None})  # an unknown name is an error here too
        else:
            changed[name] = _typed(name, text)
        self._model.defaults.replace(**changed)
        self._settings = changed

    def value_of(self, name: str) -> Any:
        """What a setting is now, the model's own included."""
        return getattr(self._model.defaults.replace(**self._settings), name)

    def save(self, path: Path) -> None:
        """Writes messages and settings as JSON, all or nothing.

        Raises:
            GenerationError: the file cannot be written, or is there and is no saved chat.
        """
        if path.exists():
            _read(path)
        content = {
            "format": _FORMAT,
            "system": self.system,
            "settings": self._settings,
            "messages": self.messages,
        }
        try:
            with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False, indent=1)
                file.write("\n")
        except OSError as error:
            raise GenerationError(f"{path} cannot be written: {error.strerror}; choose another file") from error

    def load(self, path: Path) -> None:
        """Goes on with a saved chat, settings included.

        Raises:
            GenerationError: the file cannot be read, or is no saved chat; this one stays as it was.
            InvalidOption: a setting in it is not allowed.
        """
        content = _read(path)
        try:
            self._model.defaults.replace(**content["settings"])
        except InvalidOption as error:
            raise InvalidOption(f"{path}: {error}") from error
        self.system, self._settings, self.messages = content["system"], content["settings"], content["messages"]
        self.metrics, self.unread = [], 0

    def _preceding(self) -> list[dict[str, str]]:
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self.messages]


def _typed(name: str, text: str) -> Any:
    """A value as the setting wants it; what JSON does not know is text."""
    kinds = {option.name: option.type for option in option_fields()}
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if kinds.get(name) is str and isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _read(path: Path) -> dict[str, Any]:
    """A saved chat, checked."""
    content = _json(path)
    known = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    fits = (
        known.keys() == {"format", "system", "settings", "messages"}
        and known["format"] == _FORMAT
        and (known["system"] is None or isinstance(known["system"], str))
        and isinstance(known["settings"], dict)
        and _are_turns(known["messages"])
    )
    if not fits:
        raise GenerationError(f"{path} is no chat that /save wrote; choose another file")
    return known


def _json(path: Path) -> Any:
    """What is in a file; None where it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GenerationError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        return None


def _are_turns(messages: Any) -> bool:
    """Whether user and assistant take turns, to the end of an answer."""
    listed = cast("list[Any]", messages) if isinstance(messages, list) else [None]
    turns = zip(listed, _ROLES * len(listed), strict=False)
    return len(listed) % 2 == 0 and all(_is_message(message, role) for message, role in turns)


def _is_message(message: Any, role: str) -> bool:
    known = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
    return known.keys() == {"role", "content"} and known["role"] == role and isinstance(known["content"], str)
