"""The settings of a slow tokenizer in, its special and added tokens with their ids out.

The rules are those of transformers: where files disagree, the later of them counts; flags of a token come from the
first place that declares it, and from its class where the files only spell it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgelm_export.checkpoint.files import corrupt, shown
from edgelm_export.checkpoint.slow_tokenizer_files import SlowFiles
from edgelm_export.checkpoint.tokenizer_parts import Json, added_token

# In the order in which tokens that the vocabulary lacks get their ids.
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True)
class Token:
    """A token that is matched as a whole."""

    content: str
    special: bool = True
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Tokens:
    """What the files declare: special tokens by name, tokens by the id they say, and any others."""

    named: Mapping[str, Token]
    declared: Mapping[int, Token]
    others: tuple[Token, ...]

    @property
    def texts(self) -> frozenset[str]:
        """How they are spelled, all of them."""
        return frozenset(token.content for token in (*self.named.values(), *self.declared.values(), *self.others))


def read_tokens(files: SlowFiles, defaults: Mapping[str, Token]) -> Tokens:
    """The tokens the files name; `defaults` are those of the class, where the files are silent.

    Raises:
        CorruptFile: a token that is no text, or an id that is no number.
    """
    file = files.folder / "tokenizer_config.json"
    given = {
        name: _token(file, name, value, special=True)
        for name, value in files.settings.items()
        if name.endswith("_token") and (value is None or isinstance(value, str | dict))
    }
    for name, default in defaults.items():
        if (token := given.get(name)) is not None and isinstance(files.settings[name], str):
            given[name] = replace(token, flags=default.flags)
    named = {name: token for name in NAMES if (token := given.get(name, defaults.get(name))) is not None}
    own = [token for name, token in given.items() if name not in NAMES and token is not None]
    others = (*own, *_listed(file, files.settings))
    texts = {token.content for token in (*named.values(), *others)}
    declared = {
        i: replace(token, special=token.special or token.content in texts)
        for i, token in sorted(_declared(files, texts))
    }
    return Tokens(named, declared, others)


def place(
    file: Path, tokens: Tokens, matched: Mapping[str, bool], index: Mapping[str, int], limit: int | None
) -> tuple[list[Json], dict[str, int]]:
    """The added tokens as tokenizer.json lists them, and the id of each.

    The tokenizers library numbers tokens that are not in the vocabulary itself, from its end on.

    Args:
        file: for messages.
        tokens: what the files declare.
        matched: pieces the vocabulary itself wants matched as a whole, and whether they are special.
        index: token -> id of the vocabulary.
        limit: size of the model's embedding; tokens past it are left out, as the model knows no such id.

    Raises:
        CorruptFile: a token that is declared with another id than it gets.
    """
    ids: dict[str, int] = {}
    placed: list[Json] = []
    end = len(index)
    candidates: list[tuple[int | None, Token]] = [*tokens.declared.items()]
    candidates += [(None, token) for token in (*tokens.named.values(), *tokens.others)]
    candidates += [(None, Token(text, special)) for text, special in matched.items()]
    for declared, token in candidates:
        if token.content in ids:
            continue
        found = index.get(token.content, end)
        wanted = declared if declared is not None and token.content not in index else found
        if limit is not None and wanted >= limit:
            continue
        if declared not in (None, found):
            raise corrupt(file, f"gives {shown(token.content)} the id {declared}, but in the vocabulary it is {found}")
        ids[token.content] = found
        end += found == end
        placed.append(added_token(found, token.content, special=token.special, **token.flags))
    return sorted(placed, key=lambda token: token["id"]), ids


def _declared(files: SlowFiles, special: set[str]) -> Iterator[tuple[int, Token]]:
    file, decoder = files.folder / "tokenizer_config.json", files.settings.get("added_tokens_decoder")
    if decoder is not None:
        if not isinstance(decoder, dict):
            raise corrupt(file, "added_tokens_decoder is no object")
        for key, value in decoder.items():
            token = _token(file, "added_tokens_decoder", value, special=False)
            if token is not None:
                yield _id(file, key, int(key) if key.isdecimal() and len(key) < 10 else None), token
        return
    file = files.folder / "added_tokens.json"
    for text, token_id in files.object(file.name).items():
        if text:
            # As transformers: what is no special token is looked for in the normalized text.
            flags = {"normalized": text not in special}
            yield _id(file, text, token_id), Token(text, text in special, flags)


def _id(file: Path, key: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise corrupt(file, f"gives the added token {shown(key)} no id")
    return value


def _listed(file: Path, settings: Mapping[str, Any]) -> Iterator[Token]:
    """Special tokens without one of the usual names: a list, or an object with names of the model's own."""
    listed = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    if not isinstance(listed, list | dict):
        raise corrupt(file, "extra_special_tokens is neither a list nor an object")
    for value in listed.values() if isinstance(listed, dict) else listed:
        token = _token(file, "extra_special_tokens", value, special=True)
        if token is not None:
            yield token


def _token(file: Path, name: str, value: Any, *, special: bool) -> Token | None:
    """A token as the settings spell it: its text, or an object with its text and flags; None where that is empty."""
    given = value if isinstance(value, dict) else {"content": value}
    content = given.get("content") or ""
    if not isinstance(content, str):
        raise corrupt(file, f"{name} holds a token that is no text")
    special = special or given.get("special") is True
    flags = {flag: given[flag] is True for flag in _FLAGS if flag in given}
    return Token(content, special, {"normalized": not special} | flags) if content else None
