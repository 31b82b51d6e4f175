"""Real weights: all-MiniLM-L6-v2, its sentence embeddings against transformers with mean pooling on 200 real sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

import edgelm
from tests.downloads import MINILM
from tests.parity.weights import available
from tests.real_text import sentences

pytestmark = pytest.mark.weights

SENTENCES, DIMENSION = 200, 384

# Cosine with the reference's embedding of the same sentence.
FLOAT_COSINE = 0.99999
INT8_MEAN_COSINE, INT8_WORST_COSINE = 0.995, 0.98

# How much a value of an embedding may depend on what else is in the call. Floats are multiplied in groups of texts of one length,
# which moves last bits; what rounds its input runs each text alone, and not a bit moves.
FLOAT_BATCH_TOLERANCE = 1e-6

Embeddings = NDArray[np.float32]


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return available(MINILM.fetch)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return available(lambda: sentences("quality", SENTENCES))


@pytest.fixture(scope="module")
def expected(checkpoint: Path, texts: list[str]) -> Embeddings:
    return reference_embeddings(checkpoint, texts)


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_exported(checkpoint, tmp_path_factory.mktemp("minilm") / "fp32", "fp32")


@pytest.fixture(scope="module")
def int8(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_exported(checkpoint, tmp_path_factory.mktemp("minilm") / "int8", "int8")


def test_the_sentences_are_different_and_of_many_lengths(texts: list[str]) -> None:
    assert len(set(texts)) == SENTENCES
    assert min(map(len, texts)) < 60
    assert max(map(len, texts)) > 250


def test_fp32_embeddings_are_the_reference_s(fp32: Any, texts: list[str], expected: Embeddings) -> None:
    assert cosines(fp32.encode(texts), expected).min() > FLOAT_COSINE


def test_int8_embeddings_are_close_to_the_reference_s(int8: Any, texts: list[str], expected: Embeddings) -> None:
    found = cosines(int8.encode(texts), expected)
    assert found.mean() > INT8_MEAN_COSINE
    assert found.min() > INT8_WORST_COSINE


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", FLOAT_BATCH_TOLERANCE), ("int8", 0.0)])
def test_a_text_alone_gives_what_it_gives_in_a_batch(
    precision: str, tolerance: float, texts: list[str], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(precision)
    together = model.encode(texts, batch_size=32)
    alone = np.concatenate([model.encode([text]) for text in texts])
    np.testing.assert_allclose(alone, together, rtol=0, atol=tolerance)


def test_embeddings_are_float32_of_length_1_in_the_order_of_the_texts(fp32: Any, texts: list[str]) -> None:
    found = fp32.encode(texts)
    assert found.shape == (SENTENCES, DIMENSION)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(fp32.encode(texts[::-1])[::-1], found, rtol=0, atol=FLOAT_BATCH_TOLERANCE)


def load_exported(checkpoint: Path, out: Path, precision: str) -> Any:
    edgelm.export(checkpoint, out, precision=precision, verify=False)
    return edgelm.load(out, device="cpu", threads=2)


def reference_embeddings(checkpoint: Path, texts: Sequence[str]) -> Embeddings:
    """Mean of the last hidden states over a text's tokens, scaled to length 1; one text at a time, so nothing is padded."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    model = AutoModel.from_pretrained(checkpoint, local_files_only=True, dtype=torch.float32).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
            rows.append(torch.nn.functional.normalize(hidden.mean(1)))
    return torch.cat(rows).numpy()


def cosines(found: Embeddings, expected: Embeddings) -> NDArray[np.float64]:
    """Row by row; of anything but finite numbers it is NaN, which no comparison accepts."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
