"""Logits and what they say: the protocol of processors, log probabilities, the highest of a vocabulary.

A processor changes the logits [vocab] before a token is chosen from them. A factory takes values of GenerationConfig's
fields and returns a processor for one generation (it may keep state). A processor gets the ids so far (prompt included)
and float32 logits [vocab] that are its to overwrite, and returns float32 [vocab]; -inf removes a token. The highest logit
it gets is finite, and one it returns must be. penalties.py and constraints.py hold those there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Logits: TypeAlias = NDArray[np.float32]
Processor: TypeAlias = Callable[[Sequence[int], Logits], Logits]

LOWEST = np.finfo(np.float32).min  # of what was not removed


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
        least = np.partition(logits, -count)[-count] if count < logits.size else LOWEST
        return np.flatnonzero(logits >= max(least, LOWEST))
    # `count` groups have a maximum of at least `bound`, hence at least as many logits do.
    maxima = logits[: per_group * groups].reshape(per_group, groups).max(axis=0)
    bound = np.partition(maxima, -count)[-count]
    return np.flatnonzero(logits >= max(bound, LOWEST))


def kth_largest(logits: Logits, k: int) -> np.float32:
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
