"""A text and its tokens in, the tokens of it that a model reads at a time out: cut to a limit, or in overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Encoding

Indices = NDArray[np.int64]
NONE = -1  # a special token's part of the input and its word


@dataclass(frozen=True)
class Tokenized:
    """A text, or the second one of a pair, and the tokens of the whole input, each [tokens].

    Attributes:
        text: what `offsets` count in.
        parts: 0 for tokens of the first text, 1 for those of the second, NONE for special tokens put around them.
        offsets: [tokens, 2], start and end of each token in its own text, in characters.
        words: counts the words of a text.
    """

    text: str
    ids: Indices
    type_ids: Indices
    parts: Indices
    offsets: Indices
    words: Indices

    @classmethod
    def of(cls, text: str, encoding: Encoding) -> Tokenized:
        """What the tokenizers library found in a text."""
        return cls(
            text,
            np.array(encoding.ids, np.int64),
            np.array(encoding.type_ids, np.int64),
            part_numbers(encoding),
            np.array(encoding.offsets, np.int64).reshape(-1, 2),
            np.array([NONE if word is None else word for word in encoding.word_ids], np.int64),
        )

    def take(self, chosen: Indices) -> Tokenized:
        """Only those tokens."""
        arrays = {name: getattr(self, name)[chosen] for name in ("ids", "type_ids", "parts", "offsets", "words")}
        return replace(self, **arrays)


def part_numbers(encoding: Encoding) -> Indices:
    """`Tokenized.parts` alone."""
    return np.array([NONE if part is None else part for part in encoding.sequence_ids], np.int64)


def truncated(parts: Indices, limit: int, *, left: bool = False) -> Indices:
    """Indices of the tokens that stay, at most `limit` where special tokens leave room: the longer text is cut first.

    As "longest_first" of the tokenizers library 0.15 and later. Texts lose their ends, or their beginnings with `left`.
    """
    chosen = [np.flatnonzero(parts == part) for part in (0, 1)]
    room = max(0, limit - int((parts == NONE).sum()))
    keep = _shares(len(chosen[0]), len(chosen[1]), room)
    kept = [indices[len(indices) - n :] if left else indices[:n] for indices, n in zip(chosen, keep, strict=True)]
    return np.sort(np.concatenate([np.flatnonzero(parts == NONE), *kept]))


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text stay."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    # Where the shorter one does not fit either, each gets half, and the longer one the odd token.
    shares = (room // 2, room - room // 2) if 2 * short > room else (short, room - short)
    return shares if first <= second else (shares[1], shares[0])


def windows(parts: Indices, part: int, limit: int, stride: int) -> list[Indices]:
    """Indices of the tokens of each window of at most `limit`: all others, and a piece of one text.

    Neighbours share `stride` tokens of that text. It must be below the room for a piece, unless all fits at once.
    """
    text = np.flatnonzero(parts == part)
    others = np.flatnonzero(parts != part)
    room = limit - len(others)
    if len(text) <= room:
        return [np.arange(len(parts))]
    starts = range(0, max(1, len(text) - stride), room - stride)
    return [np.sort(np.concatenate([others, text[start : start + room]])) for start in starts]


def span_of_words(tokens: Tokenized, first: int, last: int) -> tuple[int, int]:
    """Start and end, in characters, of what stands from token `first` to token `last`, widened to whole words.

    Only as far as these tokens reach: a window may begin within a word.
    """
    if NONE not in tokens.words[[first, last]]:
        first, last = int(_same_word(tokens, first)[0]), int(_same_word(tokens, last)[-1])
    return int(tokens.offsets[first, 0]), int(tokens.offsets[last, 1])


def _same_word(tokens: Tokenized, token: int) -> Indices:
    return np.flatnonzero((tokens.words == tokens.words[token]) & (tokens.parts == tokens.parts[token]))
