"""A chat without a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgelm.conversation import Conversation
from edgelm.errors import ContextOverflow, GenerationError, InvalidOption
from edgelm.generation import Chunk
from edgelm.generation_config import GenerationConfig
from edgelm.metrics import Metrics

METRICS = Metrics(1, 0, 2, None, None, None, None, None)


class Echo:
    """Answers with the number of messages and what was said last, word by word."""

    def __init__(self) -> None:
        self.defaults = GenerationConfig(max_new_tokens=7)
        self.asked: list[dict[str, Any]] = []
        self.room = 1000
        self.failure: Exception | None = None
        self.fails_after = 0

    def fit_chat(self, messages: list[dict[str, str]], /, **options: Any) -> list[dict[str, str]]:
        return messages[-self.room :]

    def stream_chat(self, messages: Sequence[Mapping[str, Any]], /, **options: Any) -> Iterator[Chunk]:
        self.asked.append({"messages": list(messages), "options": options})
        for number, piece in enumerate((f"{len(messages)}", " ", messages[-1]["content"])):
            if self.failure is not None and number >= self.fails_after:
                raise self.failure
            yield Chunk(piece)
        yield Chunk("!", "stop", [1, 2], METRICS)


def say(chat: Conversation, text: str) -> str:
    return "".join(chunk.text for chunk in chat.ask(text))


def test_every_turn_is_asked_with_what_went_before() -> None:
    model = Echo()
    chat = Conversation(model, "Be brief", {"temperature": 0})
    assert [say(chat, "a"), say(chat, "b")] == ["2 a!", "4 b!"]
    assert model.asked[1]["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "2 a!"},
        {"role": "user", "content": "b"},
    ]
    assert model.asked[1]["options"] == {"temperature": 0}
    assert chat.metrics == [METRICS, METRICS]


def test_a_chat_that_has_become_too_long_is_read_without_its_oldest_turns_and_keeps_them() -> None:
    model = Echo()
    chat = Conversation(model)
    model.room = 3
    assert [say(chat, text) for text in "abc"] == ["1 a!", "3 b!", "3 c!"]
    assert [message["content"] for message in model.asked[2]["messages"]] == ["b", "3 b!", "c"]
    assert (chat.unread, len(chat.messages)) == (2, 6)
    chat.reset()
    assert chat.unread == 0


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came() -> None:
    chat = Conversation(Echo())
    answer = chat.ask("a")
    assert next(answer).text == "1"
    answer.close()
    assert [message["content"] for message in chat.messages] == ["a", "1"]
    assert chat.metrics == []
    assert say(chat, "b") == "3 b!"


def test_an_interrupt_within_the_model_keeps_the_answer_too() -> None:
    model = Echo()
    model.failure, model.fails_after = KeyboardInterrupt(), 2  # type: ignore[assignment]
    chat = Conversation(model)
    with pytest.raises(KeyboardInterrupt):
        say(chat, "a")
    assert [message["content"] for message in chat.messages] == ["a", "1 "]


@pytest.mark.parametrize("after", [0, 2])
def test_a_turn_that_fails_is_forgotten(after: int) -> None:
    model = Echo()
    chat = Conversation(model)
    say(chat, "a")
    before = list(chat.messages)
    model.failure, model.fails_after = ContextOverflow("full"), after
    with pytest.raises(ContextOverflow):
        say(chat, "b")
    assert chat.messages == before


def test_a_reset_keeps_settings_and_system_message() -> None:
    chat = Conversation(Echo(), "Be brief", {"seed": 1})
    say(chat, "a")
    chat.reset()
    assert (chat.messages, chat.metrics, chat.system, chat.settings) == ([], [], "Be brief", {"seed": 1})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("temperature", "1", 1),
        ("seed", "7", 7),
        ("stop", "END", "END"),
        ("stop", '"\\n"', "\n"),
        ("stop", '["a", "b"]', ["a", "b"]),
        ("regex", "[a-z]+", "[a-z]+"),
        ("regex", "12", "12"),
        ("choice", '["yes", "no"]', ["yes", "no"]),
        ("json_schema", '{"type": "null"}', {"type": "null"}),
        ("json_schema", "true", True),
        ("early_stopping", "true", True),
    ],
)
def test_settings_are_set_as_they_are_typed(name: str, text: str, value: Any) -> None:
    chat = Conversation(Echo())
    chat.set(name, text)
    assert chat.settings == {name: value}
    chat.set(name, "default")
    assert chat.settings == {}


def test_a_wrong_setting_changes_nothing() -> None:
    chat = Conversation(Echo(), settings={"top_p": 0.5})
    for name, text, message in (
        ("top_p", "2", "option top_p is 2"),
        ("tempature", "1", "did you mean 'temperature'"),
        ("tempature", "default", "did you mean 'temperature'"),
        ("temperature", "warm", "option temperature is 'warm', but must be a number"),
        ("max_new_tokens", "1.5", "must be an integer"),
    ):
        with pytest.raises(InvalidOption, match=message):
            chat.set(name, text)
    assert chat.settings == {"top_p": 0.5}
    assert (chat.value_of("top_p"), chat.value_of("max_new_tokens")) == (0.5, 7)


def test_wrong_settings_are_refused_at_the_beginning() -> None:
    with pytest.raises(InvalidOption, match="top_p"):
        Conversation(Echo(), settings={"top_p": 2})


def test_a_saved_chat_goes_on_elsewhere(tmp_path: Path) -> None:
    chat = Conversation(Echo(), "Sei h\u00f6flich", {"stop": ["x"], "json_schema": {"type": "null"}})
    say(chat, "caf\u00e9\nau lait")
    chat.save(tmp_path / "chat.json")
    other = Conversation(Echo())
    say(other, "something else")
    other.load(tmp_path / "chat.json")
    assert (other.messages, other.system, other.settings) == (chat.messages, chat.system, chat.settings)
    assert say(other, "b") == say(chat, "b")
    other.save(tmp_path / "chat.json")
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        "[" * 5000,
        "{}",
        '{"format": "edgelm-chat-2", "system": null, "settings": {}, "messages": []}',
        '{"format": "edgelm-chat-1", "system": 5, "settings": {}, "messages": []}',
        '{"format": "edgelm-chat-1", "system": null, "settings": [], "messages": []}',
        '{"format": "edgelm-chat-1", "system": null, "settings": {}, "messages": {}}',
        '{"format": "edgelm-chat-1", "system": null, "settings": {}, "messages": [], "more": 1}',
        '{"format": "edgelm-chat-1", "system": null, "settings": {}, "messages": [{"role": "user", "content": "a"}]}',
        '{"format": "edgelm-chat-1", "system": null, "settings": {}, "messages": [1, 2]}',
        '{"format": "edgelm-chat-1", "system": null, "settings": {}, "messages": '
        '[{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
    ],
)
def test_what_is_no_saved_chat_is_neither_read_nor_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.json"
    path.write_text(content, encoding="utf-8")
    chat = Conversation(Echo())
    say(chat, "a")
    for action in (chat.load, chat.save):
        with pytest.raises(GenerationError, match=r"notes\.json is no chat that /save wrote; choose another file"):
            action(path)
    assert path.read_text(encoding="utf-8") == content
    assert len(chat.messages) == 2


def test_settings_of_a_saved_chat_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"format": "edgelm-chat-1", "system": None, "settings": {"top_p": 3}, "messages": []}))
    chat = Conversation(Echo(), "kept")
    with pytest.raises(InvalidOption, match=r"chat\.json: option top_p is 3"):
        chat.load(path)
    assert chat.system == "kept"


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    chat = Conversation(Echo())
    with pytest.raises(GenerationError, match=r"missing\.json cannot be read: No such file"):
        chat.load(tmp_path / "missing.json")
    with pytest.raises(
        GenerationError, match=r"chat\.json cannot be written: No such file or directory; choose another"
    ):
        chat.save(tmp_path / "nowhere" / "chat.json")
