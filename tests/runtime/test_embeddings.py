"""What is done to embeddings after the graph, and the words sentence-transformers has for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgelm.embeddings import COMPATIBLE, compatible, cosine_similarity, with_length_1
from edgelm.errors import InvalidOption


def test_options_that_change_nothing_are_accepted() -> None:
    given = {
        "convert_to_numpy": True, "convert_to_tensor": False, "output_value": "sentence_embedding", "precision": "float32",
        "device": None, "pool": None, "chunk_size": None, "normalize_embeddings": True, "truncate_dim": 8,
        "show_progress_bar": None,
    }  # fmt: skip
    assert set(given) == set(COMPATIBLE)
    assert compatible(given) == given


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"convert_to_tensor": True},
            "convert_to_tensor=True is not supported: embeddings come as a NumPy array; torch.from",
        ),
        ({"convert_to_numpy": False}, "convert_to_numpy=False is not supported: embeddings come as a NumPy array"),
        ({"output_value": "token_embeddings"}, "output_value='token_embeddings' is not supported: hidden_states"),
        ({"output_value": None}, "output_value=None is not supported: hidden_states"),
        ({"precision": "int8"}, "precision='int8' is not supported: embeddings are float32; quantize them afterwards"),
        ({"device": "cuda"}, "device='cuda' is not supported: the device is chosen when the package is loaded"),
        ({"pool": {}}, r"pool=\{\} is not supported: a model runs in one process; load it once in each process"),
        ({"chunk_size": 8}, "chunk_size=8 is not supported: a model runs in one process"),
        (
            {"normalise": True},
            r"encode has no option 'normalise' \(of sentence-transformers it takes normalize_embeddings",
        ),
    ],
)
def test_options_that_ask_for_something_else_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        compatible(options)


def test_vectors_get_length_1_and_the_zero_vector_stays() -> None:
    found = with_length_1(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert found.dtype == np.float32


def test_similarities_are_cosines_of_every_pair() -> None:
    a, b = [[1, 0], [0, 2]], [[5, 0], [-1, 1], [0, 0]]
    found = cosine_similarity(a, b)
    np.testing.assert_allclose(found, [[1, -np.sqrt(0.5), 0], [0, np.sqrt(0.5), 0]], atol=1e-6)
    assert (found.shape, found.dtype) == ((2, 3), np.float32)
    assert cosine_similarity([1, 0], [1, 1]).shape == (1, 1)


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        (
            [[1, 2]],
            [[1, 2, 3]],
            r"embeddings of shapes \(1, 2\) and \(1, 3\) cannot be compared; their last axes differ",
        ),
        (np.zeros((1, 2, 3)), [[1, 2, 3]], "cannot be compared"),
        ("a text", ["another"], "similarity compares embeddings, which encode"),
        ([[1, 2], [1]], [[1, 2]], "similarity compares embeddings"),
    ],
)
def test_what_is_no_embedding_is_refused(a: Any, b: Any, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        cosine_similarity(a, b)
