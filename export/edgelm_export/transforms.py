"""Named layout transforms between a checkpoint's tensors and ours. Each takes and returns a whole tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Transform = Callable[[Array], Array]
Promise = Callable[[], Array]  # what reads it


def cut(rows: Array, step: int) -> Iterator[Promise]:
    """Rows that are there, so many at a time; at least one piece, were it an empty one."""
    return (partial(rows.__getitem__, slice(start, start + step)) for start in range(0, max(1, len(rows)), step))


@dataclass(frozen=True)
class RowOrder:
    """A transform that moves rows and looks at none, so it does for codes and scales what it does for values."""

    move: Callable[[NDArray[Any]], NDArray[Any]]

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """The rows of `x` in their new order."""
        return self.move(x)


def unpermute_rope(num_heads: int) -> RowOrder:
    """Rows of q or k from llama.cpp's interleaved rotary order back to the half-split order of Hugging Face.

    The inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py; works on weights [rows, columns] and biases [rows].
    """

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        rows, rest = x.shape[0], x.shape[1:]
        pairs = x.reshape(num_heads, rows // num_heads // 2, 2, *rest)
        return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, *rest))

    return RowOrder(apply)


def heads_apart(num_heads: int) -> RowOrder:
    """Rows that hold query, key and value of head after head (DeBERTa's `in_proj`) as all queries, all keys, all values."""
    return groups_apart(num_heads, num_heads)


def groups_apart(num_heads: int, num_key_value_heads: int) -> RowOrder:
    """Rows that hold group after group (query heads, the key head they share, its value head) as all queries, all keys, all values.

    Two key-value heads for four query heads:  q q k v | q q k v  ->  q q q q k k v v
    """

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        group = num_heads // num_key_value_heads
        heads = x.reshape(num_key_value_heads, group + 2, -1, *x.shape[1:])
        parts = (heads[:, :group], heads[:, group], heads[:, group + 1])
        return np.concatenate([part.reshape(-1, *x.shape[1:]) for part in parts])

    return RowOrder(apply)


def plus_one(x: Array) -> Array:
    """Weights of Gemma's norms, which are kept as their distance from 1."""
    return x + np.float32(1)
