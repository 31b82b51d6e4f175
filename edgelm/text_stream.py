"""Token ids in, text out, one id at a time; what leaves a stream is text that no later id can change.

A stage does what one decoder component of the tokenizers library does to a whole list of tokens, but token by token
and with a bounded memory, so that a step costs the same however long the text already is.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

# WordPiece "cleanup" works inside one token, transformers' clean_up_tokenization_spaces on the whole text.
_WORDPIECE_CLEANUP = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")),
    *((" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)
TEXT_CLEANUP = tuple(rule for rule in _WORDPIECE_CLEANUP if rule[0] != " do not")


class Stage(Protocol):
    """One decoding step: tokens or text pieces in, pieces out, the rest at the end."""

    def push(self, piece: str) -> Iterable[str]:
        """Take one piece; give those that are now settled."""
        ...

    def finish(self) -> Iterable[str]:
        """No further piece comes: give what was held back."""
        ...


class TextStream:
    """Decodes one id at a time; all `push` results and `finish` together equal `Tokenizer.decode` of all ids."""

    def __init__(self, token_of: Callable[[int], str | None], stages: Sequence[Stage]) -> None:
        self._token_of = token_of
        self._stages = tuple(stages)

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that became certain, often empty."""
        token = self._token_of(token_id)
        return "" if token is None else self._run((token,), 0)

    def finish(self) -> str:
        """Return the text still held back; the stream ends here."""
        return "".join([self._run(stage.finish(), position) for position, stage in enumerate(self._stages, 1)])

    def _run(self, pieces: Iterable[str], position: int) -> str:
        for stage in self._stages[position:]:
            pieces = [settled for piece in pieces for settled in stage.push(piece)]
        return "".join(pieces)


def build_stages(decoder: Mapping[str, Any] | None) -> list[Stage] | None:
    """Stages for a decoder as tokenizer.json spells it, or None for one that cannot be decoded token by token."""
    if decoder is None:
        return [_Spaced()]
    stages: list[Stage] = []
    fused = False  # from here on the library sees one single piece: the text
    for spec in flatten_decoder(decoder):
        try:
            stage = _text_stage(spec) if fused else _token_stage(spec)
        except KeyError:
            return None
        if stage is None:
            return None
        stages.append(stage)
        fused = fused or spec["type"] in ("ByteLevel", "Fuse")
    return stages


def flatten_decoder(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The components of a decoder, in their order."""
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [spec for member in decoder["decoders"] for spec in flatten_decoder(member)]


def _token_stage(spec: Mapping[str, Any]) -> Stage | None:
    match spec["type"]:
        case "ByteLevel":
            return _ByteLevel()
        case "ByteFallback":
            return _ByteFallback()
        case "Fuse":
            return _Each(lambda token, first: token)
        case "Metaspace":
            return _Each(_metaspace(spec["replacement"], spec.get("prepend_scheme", "always") != "never"))
        case "WordPiece":
            return _Each(_wordpiece(spec["prefix"], _WORDPIECE_CLEANUP if spec["cleanup"] else ()))
        case "BPEDecoder":
            return _EndOfWord(spec["suffix"])
        case "Replace" if spec["pattern"].get("String"):
            pattern, content = spec["pattern"]["String"], spec["content"]
            return _Each(lambda token, first: token.replace(pattern, content))
        case "Strip":
            return _Each(
                lambda token, first: "".join(StripText(spec["content"], spec["start"], spec["stop"]).push(token))
            )
        case _:
            return None


def _text_stage(spec: Mapping[str, Any]) -> Stage | None:
    match spec["type"]:
        case "Fuse":
            return _Each(lambda text, first: text)
        case "Replace" if spec["pattern"].get("String"):
            return ReplaceText(spec["pattern"]["String"], spec["content"])
        case "Strip":
            return StripText(spec["content"], spec["start"], spec["stop"])
        case _:
            return None


class _Each:
    """A component that looks at one token, and at whether it is the first."""

    def __init__(self, decode: Callable[[str, bool], str]) -> None:
        self._decode = decode
        self._first = True

    def push(self, piece: str) -> Iterable[str]:
        first, self._first = self._first, False
        return (self._decode(piece, first),)

    def finish(self) -> Iterable[str]:
        return ()


class _Spaced(_Each):
    """A tokenizer without a decoder: tokens joined by spaces."""

    def __init__(self) -> None:
        super().__init__(lambda token, first: token if first else " " + token)


def _metaspace(replacement: str, prepended: bool) -> Callable[[str, bool], str]:
    return lambda token, first: token.replace(replacement, "" if first and prepended else " ")


def _wordpiece(prefix: str, cleanup: Sequence[tuple[str, str]]) -> Callable[[str, bool], str]:
    def decode(token: str, first: bool) -> str:
        if not first:
            token = token[len(prefix) :] if token.startswith(prefix) else " " + token
        for old, new in cleanup:
            token = token.replace(old, new)
        return token

    return decode


class _EndOfWord:
    """BPEDecoder: the suffix is a space, but nothing after the last token, so one token waits."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._held: str | None = None

    def push(self, piece: str) -> Iterable[str]:
        held, self._held = self._held, piece
        return () if held is None else (held.replace(self._suffix, " "),)

    def finish(self) -> Iterable[str]:
        held, self._held = self._held, None
        return () if held is None else (held.replace(self._suffix, ""),)


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte in byte-level BPE: printable Latin-1 stands for itself, the rest moves up from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(moved)}


_BYTES: Mapping[str, int] = _byte_alphabet()


def byte_level(token: str) -> bytes:
    """The bytes of a token of byte-level BPE."""
    try:
        return bytes([_BYTES[character] for character in token])
    except KeyError:  # an added token written in plain text
        return token.encode()


class _ByteLevel:
    """Byte-level BPE: tokens are bytes; a character is settled with its last byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> Iterable[str]:
        return (self._decoder.decode(byte_level(piece)),)

    def finish(self) -> Iterable[str]:
        return (self._decoder.decode(b"", final=True),)


class _ByteFallback:
    """SentencePiece byte tokens: the library decodes a whole run or none of it, so a run waits for its end."""

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, piece: str) -> Iterable[str]:
        if found := BYTE_TOKEN.fullmatch(piece):
            self._run.append(int(found[1], 16))
            return ()
        return (*self.finish(), piece) if self._run else (piece,)

    def finish(self) -> Iterable[str]:
        run, self._run = self._run, bytearray()
        try:
            return (run.decode(),) if run else ()
        except UnicodeDecodeError:
            return ("\ufffd",) * len(run)


class WholeText:
    """For decoders that look at all tokens at once: the text comes at the end."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._tokens: list[str] = []

    def push(self, piece: str) -> Iterable[str]:
        """Keep the token."""
        self._tokens.append(piece)
        return ()

    def finish(self) -> Iterable[str]:
        """Decode all tokens."""
        tokens, self._tokens = self._tokens, []
        return (self._decode(tokens),)


class ReplaceText:
    """`str.replace` on a text that comes in pieces: the tail that may still become a match waits."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new
        self._held = ""

    def push(self, piece: str) -> Iterable[str]:
        """Take more text; give it replaced, up to where a match could have begun."""
        *done, tail = (self._held + piece).split(self._old)
        keep = next(n for n in range(min(len(self._old) - 1, len(tail)), -1, -1) if tail.endswith(self._old[:n]))
        self._held = tail[len(tail) - keep :]
        return (self._new.join([*done, tail[: len(tail) - keep]]),)

    def finish(self) -> Iterable[str]:
        """Give the tail, which is no match."""
        held, self._held = self._held, ""
        return (held,)


class StripText:
    """Drops at most `start` leading and `stop` trailing `content` characters of a text that comes in pieces."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content = content
        self._start = start
        self._stop = stop
        self._held = ""

    def push(self, piece: str) -> Iterable[str]:
        """Take more text; give all but trailing characters that may be the end."""
        while self._start and piece.startswith(self._content):
            piece, self._start = piece[1:], self._start - 1
        if piece:
            self._start = 0
        text = self._held + piece
        tail = min(self._stop, len(text) - len(text.rstrip(self._content)))
        self._held = text[len(text) - tail :]
        return (text[: len(text) - tail],)

    def finish(self) -> Iterable[str]:
        """Drop the tail."""
        self._held = ""
        return ()
