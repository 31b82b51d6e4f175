"""What encode() and its users do to embeddings: options in the words of sentence-transformers, lengths, similarities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgelm.errors import InvalidOption

Array = NDArray[np.float32]

# Options of SentenceTransformer.encode (5.7 and 6.2) that change nothing here, with the values they may have.
_FIXED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "convert_to_numpy": ((True,), "embeddings come as a NumPy array; torch.from_numpy makes it a tensor"),
    "convert_to_tensor": ((False, None), "embeddings come as a NumPy array; torch.from_numpy makes it a tensor"),
    "output_value": (("sentence_embedding",), "hidden_states() gives the vectors of tokens"),
    "precision": (("float32", None), "embeddings are float32; quantize them afterwards"),
    "device": ((None,), "the device is chosen when the package is loaded"),
    "pool": ((None,), "a model runs in one process; load it once in each process"),
    "chunk_size": ((None,), "a model runs in one process; load it once in each process"),
}
COMPATIBLE = ("normalize_embeddings", "truncate_dim", "show_progress_bar", *_FIXED)


def compatible(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options in the words of sentence-transformers, checked.

    Raises:
        InvalidOption: one is unknown, or asks for what is not done here.
    """
    for name, value in options.items():
        if name not in COMPATIBLE:
            raise InvalidOption(
                f"encode has no option {name!r} (of sentence-transformers it takes {', '.join(COMPATIBLE)})"
            )
        allowed, advice = _FIXED.get(name, ((value,), ""))
        if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
            raise InvalidOption(f"{name}={value!r} is not supported: {advice}")
    return options


def with_length_1(vectors: Array) -> Array:
    """Each vector of the last axis at length 1; the zero vector stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def cosine_similarity(a: ArrayLike, b: ArrayLike) -> Array:
    """Cosine of every vector of `a` with every one of `b`: [n, size] and [m, size] -> float32 [n, m].

    Raises:
        InvalidOption: their sizes differ, or they are no vectors.
    """
    try:
        left, right = (np.atleast_2d(np.asarray(vectors, np.float32)) for vectors in (a, b))
    except (TypeError, ValueError) as error:
        raise InvalidOption("similarity compares embeddings, which encode() makes of texts") from error
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InvalidOption(
            f"embeddings of shapes {left.shape} and {right.shape} cannot be compared; their last axes differ"
        )
    return with_length_1(left) @ with_length_1(right).T
