"""The files of a slow tokenizer, by name, in; vocabularies, merges and settings out, each checked and named in every error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgelm.errors import CorruptFile
from edgelm_export.checkpoint.files import corrupt, parse_object, refuse_pointer, shown
from edgelm_export.checkpoint.sentencepiece_model import SentencePieceModel, read_sentencepiece
from edgelm_export.checkpoint.tokenizer_parts import is_text, split_merges

# The same content under the names that different model types give it.
SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")

_SETTINGS, _SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
_Value = TypeVar("_Value", bool, int, str)


@dataclass(frozen=True)
class SlowFiles:
    """Name -> content of what a folder holds. Absent files of settings are empty ones; a vocabulary must be there."""

    folder: Path  # for messages
    content: Mapping[str, bytes]
    settings: Mapping[str, Any]  # tokenizer_config.json, and special_tokens_map.json where that still counts

    def setting(self, name: str, default: _Value) -> _Value:
        """A value of the default's type; the default where the files are silent or say null.

        Raises:
            CorruptFile: it is of another type.
        """
        value = self.settings.get(name)
        if value is None:
            return default
        if type(value) is not type(default):
            raise corrupt(
                self.folder / _SETTINGS, f"{name} is {type(value).__name__} instead of {type(default).__name__}"
            )
        return value

    def object(self, name: str) -> dict[str, Any]:
        """A JSON file, empty where there is none."""
        file = self.folder / name
        return _texts(file, parse_object(file, self.content[name])) if name in self.content else {}

    def words(self) -> dict[str, int]:
        """Token -> id of vocab.txt, which has a token a line.

        Raises:
            CorruptFile: it is missing or empty, is no UTF-8, or lists a token twice.
        """
        file, text = self._text("vocab.txt")
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        index: dict[str, int] = {}
        for i, line in enumerate(lines):
            # As the tokenizers library: no token ends in white space. Nothing but white space matches no text at all.
            token = line.rstrip() or f"[EMPTY_{i}]"
            if index.setdefault(token, i) != i:
                raise corrupt(file, f"lists {shown(token)} twice, at lines {index[token] + 1} and {i + 1}")
        if not index:
            raise corrupt(file, "is empty")
        return index

    def pairs(self) -> tuple[dict[str, int], list[list[str]]]:
        """Token -> id of vocab.json, and merges.txt as pairs in order.

        Raises:
            CorruptFile: one is missing or empty, ids are no row of numbers from 0, a merge names an unknown token.
        """
        index, lines = self.ids("vocab.json"), self.merges()

        def refuse(what: str) -> Any:
            raise corrupt(self.folder / "merges.txt", what)

        return index, split_merges(lines, index, refuse)

    def ids(self, name: str) -> dict[str, int]:
        """Token -> id of a JSON file.

        Raises:
            CorruptFile: it is missing or empty, or its ids are no row of numbers from 0.
        """
        file = self._file(name)
        index = _texts(file, parse_object(file, self.content[name], _no_duplicates(file)))
        _check_ids(file, index)
        return index

    def merges(self) -> list[str]:
        """The lines of merges.txt, best first.

        Raises:
            CorruptFile: it is missing, is no UTF-8, or lists a merge twice.
        """
        file, text = self._text("merges.txt")
        lines = [line.rstrip("\r") for line in text.split("\n")]
        lines = [line for line in lines if line and not line.startswith("#version")]
        if len(set(lines)) != len(lines):
            seen: set[str] = set()
            twice = next(line for line in lines if line in seen or seen.add(line))
            raise corrupt(file, f"lists {shown(twice)} twice")
        return lines

    def sentencepiece(self, own: str) -> SentencePieceModel:
        """The SentencePiece model, under the name that its class gives it or another.

        Raises:
            CorruptFile: none is there, or it is damaged.
        """
        name = next((name for name in (own, *SENTENCEPIECE_FILES) if name in self.content), own)
        file = self._file(name)
        return read_sentencepiece(file, self.content[name])

    def _file(self, name: str) -> Path:
        if name not in self.content:
            held = ", ".join(self.content) or "nothing"
            raise CorruptFile(
                f"{self.folder / name}: is missing, and the tokenizer needs it (of its files there is {held}); "
                "download the folder again"
            )
        return self.folder / name

    def _text(self, name: str) -> tuple[Path, str]:
        file = self._file(name)
        refuse_pointer(file, self.content[name][:8])
        try:
            return file, self.content[name].decode()
        except UnicodeDecodeError as error:
            raise corrupt(file, f"is not UTF-8 text at byte {error.start}") from error


def open_slow_files(folder: Path, content: Mapping[str, bytes]) -> SlowFiles:
    """Reads the settings among the files.

    Raises:
        CorruptFile: they are no JSON objects.
    """
    files = SlowFiles(folder, content, {})
    settings = files.object(_SETTINGS)
    if "added_tokens_decoder" not in settings:  # as transformers: only older configs need the second file
        settings |= files.object(_SPECIAL)
    return SlowFiles(folder, content, settings)


def _check_ids(file: Path, index: Mapping[str, Any]) -> None:
    if not index:
        raise corrupt(file, "is empty")
    wrong = next(((token, i) for token, i in index.items() if type(i) is not int), None)
    if wrong is not None:
        raise corrupt(file, f"gives {shown(wrong[0])} the id {shown(str(wrong[1]))}, which is no whole number")
    ids = set(index.values())
    missing = next((i for i in range(len(index)) if i not in ids), None)
    if missing is not None:
        raise corrupt(file, f"has {len(index):,} tokens and none of them has the id {missing}")


def _no_duplicates(file: Path) -> Any:
    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            raise corrupt(file, f"lists {shown(twice)} twice")
        return result

    return checked


def _texts(file: Path, value: dict[str, Any]) -> dict[str, Any]:
    """The object, when every text in it can be written down: JSON can spell halves of surrogate pairs, UTF-8 cannot."""
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and not is_text(item):
            raise corrupt(file, f"holds {shown(item)}, which is no Unicode text")
        if isinstance(item, dict):
            pending += [*item, *item.values()]
        elif isinstance(item, list):
            pending += item
    return value
