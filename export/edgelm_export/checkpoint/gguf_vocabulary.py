"""The tokenizer.ggml.* keys of a GGUF in, a Vocabulary whose lengths and ids are checked out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import numpy as np

from edgelm.errors import CorruptFile
from edgelm_export.checkpoint.tokenizer_parts import is_text

_PREFIX = "tokenizer.ggml."
_NOTHING: Any = object()
_Value = TypeVar("_Value")


class TokenType(IntEnum):
    """tokenizer.ggml.token_type, as llama.cpp numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# tokenizer_config.json's names <- GGUF's (the missing letter in "seperator" is GGUF's own).
_ID_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
    "eot_token": "eot_token_id",
    "eom_token": "eom_token_id",
}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order; `types` has their length; `ids` names the special tokens the file names."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    typed: bool  # whether the file has types; all tokens count as normal otherwise
    ids: Mapping[str, int]

    def index(self) -> dict[str, int]:
        """Token -> id."""
        return {token: i for i, token in enumerate(self.tokens)}

    def of_type(self, *types: TokenType) -> list[int]:
        """Ids of the tokens that have one of these types."""
        return [i for i, kind in enumerate(self.types) if kind in types]

    def token(self, name: str) -> str | None:
        """Text of a special token by tokenizer_config.json's name for it."""
        return self.tokens[self.ids[name]] if name in self.ids else None


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Reads tokens, types and special ids.

    Raises:
        CorruptFile: no tokens, a token twice, an array of another length, or an id outside the vocabulary.
    """
    tokens = strings(metadata, "tokens")
    if not tokens:
        refuse("tokens", "is missing or empty")
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]  # llama.cpp's name for them
    if len(set(tokens)) != len(tokens):
        first: dict[str, int] = {}
        twice = next(i for i, token in enumerate(tokens) if first.setdefault(token, i) != i)
        refuse("tokens", f"lists {tokens[twice]!r} twice, as {first[tokens[twice]]} and {twice}")
    types = numbers(metadata, "token_type", len(tokens))
    ids = {
        name: token_id for name, key in _ID_KEYS.items() if (token_id := _id(metadata, key, len(tokens))) is not None
    }
    kinds = (int(TokenType.NORMAL),) * len(tokens) if types is None else tuple(map(int, types))
    if (
        setting(metadata, "model", "") == "llama"
    ):  # ids SentencePiece gives unless told otherwise; llama.cpp assumes them
        usual = zip(("unk_token", "bos_token", "eos_token"), kinds[:3], strict=False)
        special = (TokenType.UNKNOWN, TokenType.CONTROL)
        ids = {name: token_id for token_id, (name, kind) in enumerate(usual) if kind in special} | ids
    return Vocabulary(tuple(tokens), kinds, types is not None, ids)


def refuse(key: str, what: str) -> NoReturn:
    """Raises the error for a key that cannot be right."""
    raise CorruptFile(f"{_PREFIX}{key} {what}; the file is damaged or was converted wrongly, download it again")


def setting(metadata: Mapping[str, Any], key: str, default: _Value) -> _Value:
    """A single value of the default's type; the default where the file is silent."""
    value = metadata.get(_PREFIX + key, _NOTHING)
    if value is _NOTHING:
        return default
    if not isinstance(value, type(default)):
        refuse(key, f"is {type(value).__name__} instead of {type(default).__name__}")
    return value


def strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    """An array of text; empty where the file has none."""
    values = _array(metadata, key)
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, str) or not is_text(value)), None)
    if wrong is not None:
        refuse(key, f"holds at {wrong} something that is no UTF-8 text")
    return list(values)


def numbers(metadata: Mapping[str, Any], key: str, length: int) -> list[float] | None:
    """An array of `length` finite numbers, or None where the file has none."""
    if _PREFIX + key not in metadata:
        return None
    values = _array(metadata, key)
    if len(values) != length:
        refuse(key, f"has {len(values):,} entries for {length:,} tokens")
    wrong = next((i for i, x in enumerate(values) if not isinstance(x, int | float) or not math.isfinite(x)), None)
    if wrong is not None:
        refuse(key, f"holds {values[wrong]!r} at {wrong}, which is no finite number")
    return list(values)


def octets(metadata: Mapping[str, Any], key: str) -> bytes:
    """An array of bytes, signed or not; empty where the file has none."""
    values = _array(metadata, key)
    wrong = next((i for i, x in enumerate(values) if not isinstance(x, int) or not -128 <= x <= 255), None)
    if wrong is not None:
        refuse(key, f"holds {values[wrong]!r} at {wrong}, which is no byte")
    return bytes(value & 0xFF for value in values)


def _array(metadata: Mapping[str, Any], key: str) -> Sequence[Any]:
    values = metadata.get(_PREFIX + key, ())
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, list | tuple):
        refuse(key, f"is {type(values).__name__} instead of an array")
    return values


def _id(metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    value = metadata.get(_PREFIX + key, _NOTHING)
    if value is _NOTHING:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        refuse(key, f"is {value!r}, outside 0..{count - 1}")
    return value
