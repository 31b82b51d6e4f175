"""Filters: which tokens may be drawn, and how likely each is then.

A factory takes values of GenerationConfig's fields and returns a filter for one generation. A filter gets the tokens that
those before it left and returns those that it leaves, at least one, so that each looks at fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgelm.logits import LOWEST, Logits, kth_largest

_BINS = 1024
_NONE = np.empty(0, np.intp)


class Candidates:
    """Tokens that may be drawn: logits [n] and their ids [n], ascending (None: all, in order).

    A logit may be -inf, which is the probability 0; the highest is finite. Whoever overwrites logits makes new candidates.
    """

    def __init__(self, logits: Logits, tokens: NDArray[np.intp] | None = None) -> None:
        self.logits, self.tokens = logits, tokens
        self._seen: tuple[Logits, Logits] | None = None
        self._total: float | None = None

    def keep(self, at: NDArray[np.intp]) -> Candidates:
        """Only those at these places, which ascend."""
        if at.size == self.logits.size:
            return self
        kept = Candidates(self.logits[at], at if self.tokens is None else self.tokens[at])
        if self._seen is not None:
            kept._seen = (self._seen[0][at], self._seen[1][at])
        return kept

    def token(self, place: int) -> int:
        """The id of one."""
        return place if self.tokens is None else int(self.tokens[place])

    @property
    def weights(self) -> Logits:
        """Probabilities times some number, [n]; exponentials are taken once, however many filters ask."""
        return self._look()[1]

    @property
    def total(self) -> float:
        """The sum of the weights."""
        if self._total is None:
            self._total = float(self.weights.sum(dtype=np.float64))
        return self._total

    @property
    def surprise(self) -> Logits:
        """Minus the log probabilities, [n]."""
        return np.float32(math.log(self.total)) - self._look()[0]

    @property
    def entropy(self) -> float:
        """Mean surprise."""
        below, weights = self._look()
        total = self.total
        return math.log(total) - float(np.einsum("i,i->", weights, below)) / total

    def _look(self) -> tuple[Logits, Logits]:
        """The logarithms of the weights, and the weights."""
        if self._seen is None:
            # Finite, so that weight times logarithm is 0 for what was removed.
            below = np.maximum(self.logits - self.logits.max(), LOWEST)
            self._seen = below, np.exp(below)
        return self._seen


Filter: TypeAlias = Callable[[Candidates], Candidates]


def temperature(value: float, dynatemp_range: float = 0.0) -> Filter:
    """Divide all logits by the temperature, after moving the highest to 0, which leaves the distribution the same.

    With a dynatemp_range this is left to `dynamic_temperature`.
    """
    return (lambda left: left) if dynatemp_range else (lambda left: _divided(left, value))


def dynamic_temperature(spread: float, middle: float, exponent: float) -> Filter:
    """A temperature between middle - spread (at least 0) and middle + spread, by the entropy of what is left, as llama.cpp.

    Where in between says (entropy / log n) ** exponent: 0 when one of the n tokens is certain, 1 when all are equally likely.
    """
    low, high = max(0.0, middle - spread), middle + spread

    def narrow(left: Candidates) -> Candidates:
        count = int(np.count_nonzero(left.logits > -np.inf))
        if count < 2:
            return left
        share = max(left.entropy, 0.0) / math.log(count)
        return _divided(left, low + (high - low) * share**exponent)

    return narrow


def top_n_sigma(count: float) -> Filter:
    """Keep logits at most `count` standard deviations below the highest (arXiv 2411.07641), as llama.cpp.

    What was removed before has no part in the deviation.
    """

    def narrow(left: Candidates) -> Candidates:
        logits = left.logits
        top, gone = logits.max(), logits.min() == -np.inf
        removed = places(logits == -np.inf) if gone else _NONE
        number = logits.size - removed.size
        # Moments around a guess of the mean, so that their difference is exact enough. Sums by einsum: as fast as BLAS, and
        # in one order whatever the number of threads.
        some = logits[:: max(1, logits.size // 256)]
        apart = logits - (some[some > -np.inf].mean() if some.max() > -np.inf else top)
        apart[removed] = 0
        mean, square = np.einsum("i->", apart) / number, np.einsum("i,i->", apart, apart) / number
        deviation = math.sqrt(max(float(square) - float(mean) ** 2, 0.0))
        return left.keep(places(logits >= max(top - np.float32(count * deviation), LOWEST)))

    return narrow


def top_k(count: int) -> Filter:
    """Keep the `count` highest logits, and all that equal the last of them."""

    def narrow(left: Candidates) -> Candidates:
        if count >= left.logits.size:
            return left
        return left.keep(places(left.logits >= max(kth_largest(left.logits, count), LOWEST)))

    return narrow


def top_p(mass: float) -> Filter:
    """Keep the fewest most likely tokens that together hold at least `mass` (nucleus, arXiv 1904.09751); never none.

    Of equal logits at the border those with the higher id stay.
    """

    def narrow(left: Candidates) -> Candidates:
        weights, total = left.weights, left.total
        # All weights up to this one hold 1 - mass of the total at most, even together: none of them can be kept.
        at = places(weights > (1 - mass) * total / weights.size * 0.999)
        return left.keep(at[_leading(left.logits[at], weights[at], mass * total)])

    return narrow


def min_p(share: float) -> Filter:
    """Keep tokens at least `share` times as likely as the likeliest (arXiv 2407.01082)."""
    distance = math.log(share) if share > 0 else -math.inf

    def narrow(left: Candidates) -> Candidates:
        return left.keep(places(left.logits >= left.logits.max() + np.float32(distance)))

    return narrow


def typical_p(mass: float) -> Filter:
    """Keep the fewest tokens that hold `mass` and whose surprise is nearest to the entropy (arXiv 2202.00666).

    All that are as near as the last of them stay as well, as in transformers. The likeliest may go.
    """

    def narrow(left: Candidates) -> Candidates:
        nearness, weights = -np.abs(left.surprise - np.float32(left.entropy)), left.weights
        at = places(weights > 0)
        border = nearness[at[_leading(nearness[at], weights[at], mass * left.total)]].min()
        return left.keep(places(nearness >= border))

    return narrow


def epsilon_cutoff(least: float) -> Filter:
    """Keep tokens with a probability of at least `least`, and the likeliest (arXiv 2210.15191, section 4.1)."""

    def narrow(left: Candidates) -> Candidates:
        return _at_least(left, least)

    return narrow


def eta_cutoff(epsilon: float) -> Filter:
    """Keep tokens with a probability of at least min(epsilon, sqrt(epsilon) * exp(-entropy)), and the likeliest (arXiv 2210.15191)."""

    def narrow(left: Candidates) -> Candidates:
        return _at_least(left, min(epsilon, math.sqrt(epsilon) * math.exp(-left.entropy)))

    return narrow


def xtc(probability: float, threshold: float, uniform: Callable[[], float]) -> Filter:
    """With this probability remove every token that has at least `threshold`, but for the least likely of them, as llama.cpp.

    Of several that are equally little likely the one with the highest id stays. `uniform` draws from [0, 1), once a token.
    """

    def narrow(left: Candidates) -> Candidates:
        if uniform() >= probability:
            return left
        likely = (left.weights >= threshold * left.total) & (left.weights > 0)
        at = places(likely)
        if at.size < 2:
            return left
        likely[at[at.size - 1 - int(np.argmin(left.logits[at[::-1]]))]] = False
        return left.keep(places(~likely))

    return narrow


def places(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where a mask is true; np.flatnonzero costs five times as much where there is little to look at."""
    return mask.nonzero()[0]


def _divided(left: Candidates, value: float) -> Candidates:
    logits = left.logits
    np.subtract(logits, logits.max(), out=logits)
    with np.errstate(over="ignore"):  # -inf is the right limit for a tiny temperature
        np.divide(
            logits, max(value, 1e-30), out=logits
        )  # far below any useful temperature, and float32 can divide by it
    return Candidates(logits, left.tokens)


def _at_least(left: Candidates, probability: float) -> Candidates:
    """Those with at least this probability, and the likeliest."""
    weights = left.weights
    return left.keep(places(weights >= min(probability * left.total, weights.max())))


def _leading(scores: Logits, weights: Logits, needed: float) -> NDArray[np.intp]:
    """Places, ascending, of those whose fellows with a higher score hold less than `needed`; at least the highest.

    Of equal scores the later one comes first. Many are sorted into bins of about the same score first, and only one bin is sorted.
    """
    if scores.size <= _BINS:
        return np.sort(_first(scores, weights, needed))
    high = scores.max()
    bins = ((high - scores) * (_BINS / max(float(high - scores.min()), 1e-30))).astype(np.intp)
    mass = np.cumsum(np.bincount(bins, weights))
    border = min(int(np.searchsorted(mass, needed)), mass.size - 1)
    chosen, at = bins < border, places(bins == border)
    chosen[at[_first(scores[at], weights[at], needed - (mass[border - 1] if border else 0.0))]] = True
    return places(chosen)


def _first(scores: Logits, weights: Logits, needed: float) -> NDArray[np.intp]:
    """The same, in the order of their scores."""
    order = scores.argsort(kind="stable")[::-1]
    ordered = weights[order].astype(np.float64)
    return order[: max(int((ordered.cumsum() - ordered).searchsorted(needed)), 1)]
