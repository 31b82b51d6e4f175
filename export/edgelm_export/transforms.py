"""Named layout transforms between a checkpoint's tensors and ours. Each takes and returns a whole tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Transform = Callable[[Array], Array]


def unpermute_rope(num_heads: int) -> Transform:
    """Rows of q or k from llama.cpp's interleaved rotary order back to the half-split order of Hugging Face.

    The inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py; works on weights [rows, columns] and biases [rows].
    """

    def apply(x: Array) -> Array:
        rows, rest = x.shape[0], x.shape[1:]
        pairs = x.reshape(num_heads, rows // num_heads // 2, 2, *rest)
        return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, *rest))

    return apply


def heads_apart(num_heads: int) -> Transform:
    """Rows that hold query, key and value of head after head (DeBERTa's `in_proj`) as all queries, all keys, all values."""

    def apply(x: Array) -> Array:
        by_head = x.reshape(num_heads, 3, -1, *x.shape[1:])
        return np.ascontiguousarray(by_head.swapaxes(0, 1).reshape(x.shape))

    return apply


def plus_one(x: Array) -> Array:
    """Weights of Gemma's norms, which are kept as their distance from 1."""
    return x + np.float32(1)
