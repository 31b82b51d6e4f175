"""Logits processors: what may change the logits [vocab] before a token is chosen from them.

A factory takes the value of one GenerationConfig field and returns a processor for one generation (it may keep state).
A processor gets the ids so far (prompt included) and float32 logits [vocab] that are its to overwrite, and returns
float32 [vocab]; -inf removes a token. The highest logit it gets is finite, and one it returns must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Logits: TypeAlias = NDArray[np.float32]
Processor: TypeAlias = Callable[[Sequence[int], Logits], Logits]

_LOWEST = np.finfo(np.float32).min  # of what was not removed


def repetition_penalty(penalty: float) -> Processor:
    """Divide positive and multiply negative logits of every id seen so far (CTRL, arXiv 1909.05858, section 4.1)."""
    seen: set[int] = set()
    index = np.empty(0, np.intp)
    length, last = 0, -1
    known: Sequence[int] | None = None

    def process(ids: Sequence[int], logits: Logits) -> Logits:
        nonlocal index, length, last, known
        # One list that grows is read once, however long the prompt; anything else (another beam) starts afresh.
        if ids is not known or length > len(ids) or (length and ids[length - 1] != last):
            seen.clear()
            index, length, known = np.empty(0, np.intp), 0, ids
        fresh = {int(i) for i in ids[length:] if i < logits.size} - seen
        if fresh:
            seen.update(fresh)
            index = np.append(index, sorted(fresh)).astype(np.intp)
        length, last = len(ids), int(ids[-1]) if len(ids) else -1
        chosen = logits[index]
        logits[index] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
        return logits

    return process


def temperature(value: float) -> Processor:
    """Divide all logits by the temperature, after moving the highest to 0, which leaves the distribution the same."""
    # Far below any useful temperature, and float32 can still divide by it.
    divisor = max(value, 1e-30)

    def process(_ids: Sequence[int], logits: Logits) -> Logits:
        np.subtract(logits, logits.max(), out=logits)
        with np.errstate(over="ignore"):  # -inf is the right limit for a tiny temperature
            np.divide(logits, divisor, out=logits)
        return logits

    return process


def top_k(count: int) -> Processor:
    """Keep the `count` highest logits, and all that equal the last of them."""

    def process(_ids: Sequence[int], logits: Logits) -> Logits:
        if count >= logits.size:
            return logits
        return _keep_only(logits, np.flatnonzero(logits >= _kth_largest(logits, count)))

    return process


def top_p(mass: float) -> Processor:
    """Keep the fewest most likely tokens that together hold at least `mass` (nucleus, arXiv 1904.09751); never none.

    Of equal logits at the border those with the higher index stay.
    """

    def process(_ids: Sequence[int], logits: Logits) -> Logits:
        weights, index = softmax_weights(logits)
        total = float(weights.sum(dtype=np.float64))
        # All weights up to this one hold 1 - mass of the total at most, even together: none of them can be kept.
        floor = (1 - mass) * total / weights.size * 0.999
        inside = _nucleus(weights, np.flatnonzero(weights > floor), mass * total)
        return _keep_only(logits, inside if index is None else index[inside])

    return process


def min_p(share: float) -> Processor:
    """Keep tokens at least `share` times as likely as the likeliest (arXiv 2407.01082)."""
    distance = math.log(share) if share > 0 else -math.inf

    def process(_ids: Sequence[int], logits: Logits) -> Logits:
        return _keep_only(logits, np.flatnonzero(logits >= logits.max() + np.float32(distance)))

    return process


def softmax_weights(logits: Logits) -> tuple[Logits, NDArray[np.intp] | None]:
    """Unnormalised probabilities, 1 for the likeliest, and the ids they belong to (None: one for each id, in order).

    After a filter few logits are left; then the rest is skipped instead of exponentiated.
    """
    alive = logits > -np.inf
    index = None if np.count_nonzero(alive) * 8 > logits.size else np.flatnonzero(alive)
    weights = logits.copy() if index is None else logits[index]
    np.subtract(weights, weights.max(), out=weights)
    return np.exp(weights, out=weights), index


def log_sum_exp(logits: Logits) -> float:
    """The logarithm of the sum of all exponentials: what turns a logit into a log probability. NaN and infinity show in it."""
    top = logits.max()
    if not math.isfinite(top):
        return float(top)
    weights = logits - top
    return float(top) + math.log(float(np.exp(weights, out=weights).sum()))


def log_softmax(logits: Logits) -> Logits:
    """Log probabilities. All are NaN if a logit is NaN or infinite."""
    total = log_sum_exp(logits)
    return logits - np.float32(total if math.isfinite(total) else np.nan)


def highest(logits: Logits, count: int) -> NDArray[np.intp]:
    """Ids among which the `count` highest logits are, few more, in no order; never one with -inf."""
    groups = max(512, 2 * count, logits.size // 128)
    per_group = logits.size // groups
    if not per_group:
        least = np.partition(logits, -count)[-count] if count < logits.size else _LOWEST
        return np.flatnonzero(logits >= max(least, _LOWEST))
    # `count` groups have a maximum of at least `bound`, hence at least as many logits do.
    maxima = logits[: per_group * groups].reshape(per_group, groups).max(axis=0)
    bound = np.partition(maxima, -count)[-count]
    return np.flatnonzero(logits >= max(bound, _LOWEST))


def _keep_only(logits: Logits, index: NDArray[np.intp]) -> Logits:
    # Writing -inf through a mask of the vocabulary is ten times slower than writing the few survivors back.
    left = logits[index]
    logits.fill(-np.inf)
    logits[index] = left
    return logits


def _kth_largest(logits: Logits, k: int) -> np.float32:
    """The k-th largest value, without partitioning the whole vocabulary."""
    groups = 8 * k
    per_group = logits.size // groups
    if per_group < 4:
        return np.partition(logits, logits.size - k)[logits.size - k]
    # k groups have a maximum of at least `bound`, hence at least k logits do; few others are above it.
    maxima = logits[: per_group * groups].reshape(per_group, groups).max(axis=0)
    bound = np.partition(maxima, groups - k)[groups - k]
    above = logits[np.flatnonzero(logits >= bound)]
    return np.partition(above, above.size - k)[above.size - k]


def _nucleus(weights: Logits, index: NDArray[np.intp], needed: float) -> NDArray[np.intp]:
    """Those of `index` whose heavier fellows hold less than `needed`; at least the heaviest, given that it is there.

    A quickselect by mass: halve the range of weights until what is left is cheap to sort.
    """
    kept: list[NDArray[np.intp]] = []
    left = weights[index]
    low, high = float(left.min()), float(left.max())
    while index.size > 512 and high > low * 1.01:
        middle = math.sqrt(low * high)
        heavy = np.flatnonzero(left > middle)
        mass = float(left[heavy].sum(dtype=np.float64))
        if mass >= needed:
            index, left, low = index[heavy], left[heavy], middle
        else:
            kept.append(index[heavy])
            needed -= mass
            light = np.flatnonzero(left <= middle)
            index, left, high = index[light], left[light], middle
    order = np.argsort(left, kind="stable")[::-1]
    ordered = left[order].astype(np.float64)
    heavier = np.cumsum(ordered) - ordered
    count = max(int(np.searchsorted(heavier, needed)), 0 if kept else 1)
    return np.concatenate([*kept, index[order[:count]]])
