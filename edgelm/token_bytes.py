"""What each token of a vocabulary adds to a text, in bytes: what a grammar, which knows text only, is matched against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgelm.errors import GenerationError
from edgelm.text_stream import BYTE_TOKEN, byte_level, flatten_decoder

# A token of ordinary text, to stand beside the one that is looked at. It need not be in the vocabulary.
_BESIDE = "a"


@dataclass(frozen=True)
class TokenBytes:
    """The bytes of each token, by its id; b"" where there are none.

    A text is the `first` of its first token and the `later` of all others: SentencePiece's decoders drop the space before
    the first one.
    """

    first: list[bytes]
    later: list[bytes]


def token_bytes(
    decoder: Mapping[str, Any] | None, decode: Callable[[list[str]], str], tokens: Sequence[str | None]
) -> TokenBytes:
    """Takes every token apart from its neighbours.

    Args:
        decoder: as tokenizer.json spells it.
        decode: what it makes of a list of tokens.
        tokens: by their ids; None where an id has no token.

    Raises:
        GenerationError: what the decoder makes of a token depends on more than whether it is the first.
    """
    parts = [] if decoder is None else flatten_decoder(decoder)
    if not _separable(parts):
        raise GenerationError(
            "the text of this tokenizer cannot be told token by token (its decoder is "
            f"{', '.join(part['type'] for part in parts)}), so it cannot be constrained; drop json_schema, regex, choice and grammar"
        )
    kinds = {part["type"] for part in parts}
    if "ByteLevel" in kinds:
        found = [b"" if token is None else byte_level(token) for token in tokens]
        return TokenBytes(found, found)
    read = _Reader(decode, "ByteFallback" in kinds)
    first = [b"" if token is None else read.first(token) for token in tokens]
    later = [b"" if token is None else read.later(token) for token in tokens]
    return TokenBytes(first, first if first == later else later)


class _Reader:
    """Asks the decoder for a token in two places."""

    def __init__(self, decode: Callable[[list[str]], str], falls_back: bool) -> None:
        self._decode = decode
        self._falls_back = falls_back
        self._left = decode([_BESIDE])
        self._right = decode([_BESIDE, _BESIDE])[len(self._left) :]

    def first(self, token: str) -> bytes:
        return self._part(token) or self._decode([token, _BESIDE]).removesuffix(self._right).encode()

    def later(self, token: str) -> bytes:
        text = self._decode([_BESIDE, token, _BESIDE])
        return self._part(token) or text.removeprefix(self._left).removesuffix(self._right).encode()

    def _part(self, token: str) -> bytes | None:
        """A byte that is only a part of a character."""
        found = BYTE_TOKEN.fullmatch(token) if self._falls_back else None
        value = 0 if found is None else int(found[1], 16)
        return bytes([value]) if value >= 0x80 else None


def _separable(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no component looks at two tokens at once, or at whether a token is the last one."""
    fused = False
    for position, part in enumerate(parts):
        match part["type"]:
            case "ByteLevel":
                apart = position == 0
            case "Fuse":
                apart = True
            case "ByteFallback" | "Metaspace" | "WordPiece":
                apart = not fused
            case "Replace":
                searched = part["pattern"].get("String", "")
                apart = bool(searched) and (not fused or len(searched) == 1)
            case "Strip":
                apart = not fused or (part["start"] <= 1 and part["stop"] == 0)
            case _:
                apart = False
        if not apart or (position and parts[0]["type"] == "ByteLevel" and part["type"] != "Fuse"):
            return False
        fused = fused or part["type"] in ("ByteLevel", "Fuse")
    return True
