"""One text from its first token on, as programs take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.cache import capacity
from edgelm.signature import CacheGeometry


def text_feeds(cache: CacheGeometry | None, program: str, ids: Sequence[int]) -> dict[str, NDArray[Any]]:
    """By every name that a program (of that name in its package) may ask for it; caches are empty."""
    count = len(ids)
    last = count - 1 if program == "decoder" else count // 2
    ones = np.ones((1, count), np.int64)
    feeds: dict[str, NDArray[Any]] = {
        signature.INPUT_IDS: np.array([ids], np.int64),
        signature.ATTENTION_MASK: ones,
        signature.ENCODER_ATTENTION_MASK: ones,
        signature.TOKEN_TYPE_IDS: np.zeros((1, count), np.int64),
        signature.LOGITS_INDEX: np.array([[last]], np.int64),
        signature.SEQLENS_K: np.array([count - 1], np.int32),
        signature.TOTAL_SEQUENCE_LENGTH: np.array(count, np.int32),
    }
    if cache is None:
        return feeds
    feeds[signature.LONG_CONTEXT] = np.array([count > (cache.short_context or count)], np.int64)
    for i, layer in enumerate(cache.layers):
        shape = (1, layer.num_key_value_heads, capacity(layer, count), layer.head_dim)
        feeds |= {signature.past(i, kind): np.zeros(shape, cache.dtype) for kind in layer.buffers}
    return feeds
