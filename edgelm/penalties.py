"""Logits processors that favour or disfavour tokens: by what came before, or by what the caller says. The protocol is that of logits.py."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import InvalidOption
from edgelm.logits import Logits, Processor
from edgelm.repetitions import Reader, Repeats

# The largest exponent that float32 holds, as llama.cpp's DRY counts it.
_MAX_LOG = 88.7228391


def logit_bias(bias: Sequence[tuple[tuple[int, ...], float]], vocab_size: int) -> Processor:
    """Add to the logit of the last token of each sequence where the others stand before it (transformers' sequence_bias).

    Raises:
        InvalidOption: a token that the vocabulary does not have.
    """
    wrong = [token for sequence, _ in bias for token in sequence if token >= vocab_size]
    if wrong:
        raise InvalidOption(f"option logit_bias names {wrong[0]}, outside 0..{vocab_size - 1}, the model's vocabulary")
    single = {sequence[0]: value for sequence, value in bias if len(sequence) == 1}
    longer = [(list(sequence[:-1]), sequence[-1], value) for sequence, value in bias if len(sequence) > 1]
    index, values = np.array(list(single), np.intp), np.array(list(single.values()), np.float32)

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        logits[index] += values
        for before, token, value in longer:
            if list(ids[-len(before) :]) == before:
                logits[token] += value
        return logits

    return process


def repetition_penalty(penalty: float, window: int = 0) -> Processor:
    """Divide positive and multiply negative logits of ids that were seen (CTRL, arXiv 1909.05858, section 4.1), as transformers.

    `window` is how many of the last ids count, prompt included; 0 is all of them.
    """
    seen = _Window(window)

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        index, _ = seen.of(ids, logits.size)
        chosen = logits[index]
        logits[index] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
        return logits

    return process


def presence_penalty(penalty: float, window: int = 0) -> Processor:
    """Subtract from the logit of every id among the last `window` ids (0: all), prompt included, as llama.cpp."""
    seen = _Window(window)

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        index, _ = seen.of(ids, logits.size)
        logits[index] -= penalty
        return logits

    return process


def frequency_penalty(penalty: float, window: int = 0) -> Processor:
    """Subtract as many times as the id is among the last `window` ids (0: all), prompt included, as llama.cpp."""
    seen = _Window(window)

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        index, counts = seen.of(ids, logits.size)
        logits[index] -= np.float32(penalty) * counts
        return logits

    return process


def dry(
    multiplier: float, base: float, allowed_length: int, window: int = 0, breakers: Collection[int] = ()
) -> Processor:
    """Subtract multiplier * base ** (n - allowed_length) from a token that would prolong a repetition of n tokens.

    A repetition of n tokens is there when the last n ids stood before in the same order; what followed them then is the token
    that would prolong it. Several repetitions with one next token count once, the longest. Those of fewer than
    `allowed_length` tokens are let be. Only the last `window` ids are looked at (0: all). No repetition reaches back over a
    breaker, and a breaker is never disfavoured. The semantics are llama.cpp's (`llama_sampler_dry`), with breakers of one token.
    """
    repeats, ends = Repeats(), frozenset(breakers)
    largest = int(_MAX_LOG / math.log(base)) if base > 1.000001 else 2**31

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        text, lengths = repeats.of(ids)
        begin = max(len(text) - window, 0) if window else 0
        # A repetition lies inside the window as a whole.
        found = np.minimum(lengths[begin:], np.arange(1, len(text) - begin)) if begin else lengths
        at = np.flatnonzero(found >= allowed_length)
        if not at.size:
            return logits
        reach = int(found[at].max())
        limit = next((n for n in range(reach) if ids[-1 - n] in ends), reach)
        if limit < allowed_length:
            return logits
        by_length = at[np.argsort(found[at], kind="stable")]
        longest = dict(zip(text[begin + by_length + 1].tolist(), found[by_length].tolist(), strict=True))
        for token, length in longest.items():
            if token < logits.size and token not in ends:
                logits[token] -= multiplier * base ** min(min(length, limit) - allowed_length, largest)
        return logits

    return process


class _Window:
    """How often each id is among the last `size` ids (0: all)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._reader = Reader()
        self._clear()

    def of(self, ids: Sequence[int], vocab_size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The ids below vocab_size that are there, each once, and how often."""
        unread, end = self._reader.unread(ids), len(ids)
        if not unread:
            self._clear()
        begin = max(end - self._size, 0) if self._size else 0
        for token in ids[max(unread, begin) : end]:
            self._count(int(token), 1, vocab_size)
        for token in ids[self._begin : min(begin, unread)]:
            self._count(int(token), -1, vocab_size)
        self._begin, used = begin, len(self._places)
        tokens, counts = self._tokens[:used], self._counts[:used]
        if not begin:
            return tokens, counts
        present = counts > 0
        return tokens[present], counts[present]

    def _clear(self) -> None:
        self._begin = 0
        self._places: dict[int, int] = {}
        self._tokens, self._counts = np.empty(64, np.intp), np.zeros(64, np.float32)

    def _count(self, token: int, change: int, vocab_size: int) -> None:
        if token >= vocab_size:
            return
        place = self._places.setdefault(token, len(self._places))
        if place == self._tokens.size:
            self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[place] = token
        self._counts[place] += change
