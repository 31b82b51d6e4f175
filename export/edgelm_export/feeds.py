"""One text from its first token on, as programs take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.adapters import no_adapter
from edgelm.cache import capacity
from edgelm.cuda import host_dtype
from edgelm.session import Program
from edgelm.signature import CacheGeometry


def text_feeds(
    program: Program,
    name: str,
    cache: CacheGeometry | None,
    ids: Sequence[int],
    given: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, NDArray[Any]]:
    """What a loaded program takes; caches are empty and no adapter is there.

    Args:
        program: the program.
        name: what its package calls it.
        cache: of a decoder.
        ids: the text.
        given: what another program said of the text.
    """
    count = len(ids)
    last = count - 1 if name == "decoder" else count // 2
    ones = np.ones((1, count), np.int64)
    feeds: dict[str, NDArray[Any]] = {
        signature.INPUT_IDS: np.array([ids], np.int64),
        signature.ATTENTION_MASK: ones,
        signature.ENCODER_ATTENTION_MASK: ones,
        signature.TOKEN_TYPE_IDS: np.zeros((1, count), np.int64),
        signature.LOGITS_INDEX: np.array([[last]], np.int64),
        signature.SEQLENS_K: np.array([count - 1], np.int32),
        signature.TOTAL_SEQUENCE_LENGTH: np.array(count, np.int32),
        **(given or {}),
    }
    if cache is not None:
        feeds[signature.LONG_CONTEXT] = np.array([count > (cache.short_context or count)], np.int64)
        feeds.update(no_adapter(program))
        for i, layer in enumerate(cache.layers):
            shape = (1, layer.num_key_value_heads, capacity(layer, count), layer.head_dim)
            feeds |= {signature.past(i, kind): np.zeros(shape, host_dtype(cache.dtype)) for kind in layer.buffers}
    taken = set(program.inputs)
    return {port: array for port, array in feeds.items() if port in taken}
