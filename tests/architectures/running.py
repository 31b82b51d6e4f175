"""What tests of architectures share: exports and loads without verification, ids in and logits out in every way there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgelm
from edgelm import signature
from edgelm.cache import capacity
from edgelm.signature import CacheGeometry
from edgelm.text_generation import DecoderModel

Logits = NDArray[np.float32]

# Largest difference allowed, relative to the largest reference logit, between two float32 computations of the same.
FLOAT_TOLERANCE = 1e-4

GREEDY: dict[str, Any] = {"temperature": 0.0, "repetition_penalty": 1.0}


def export_and_load(source: Path, out: Path, precision: str = "fp32", **options: Any) -> DecoderModel:
    """The package of a checkpoint, unverified, on one thread: tests compare it themselves."""
    edgelm.export(source, out, precision=precision, verify=False, **options)
    return edgelm.load(out, device="cpu", threads=1)


def distance(found: Logits, expected: Logits, among: Logits | None = None) -> float:
    """Largest difference relative to the largest expected logit; infinite where `found` has NaN.

    `among` is what gives the scale where `expected` is but a piece of it, and may be near zero.
    """
    assert found.shape == expected.shape
    largest = np.abs(expected if among is None else among).max()
    return float(np.nan_to_num(np.abs(found - expected).max() / largest, nan=np.inf))


def step_logits(model: DecoderModel, prompt: Sequence[int], tokens: Sequence[int]) -> Logits:
    """Logits after the prompt, and after each token fed as one decode step: [1 + len(tokens), vocab_size]."""
    decoder = model.decoder(1)
    rows = [decoder.prefill(0, prompt).copy()]
    rows += [decoder.step([token])[0].copy() for token in tokens]
    return np.stack(rows)


def prefill_feeds(cache: CacheGeometry, prompts: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    """What a decoder's graph takes for a first prefill, all positions' logits wanted; short rows padded on the right."""
    batch, longest = len(prompts), max(map(len, prompts))
    feeds: dict[str, NDArray[Any]] = {
        signature.INPUT_IDS: np.array([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]),
        signature.SEQLENS_K: np.array([len(prompt) - 1 for prompt in prompts], np.int32),
        signature.TOTAL_SEQUENCE_LENGTH: np.array(longest, np.int32),
        signature.LOGITS_INDEX: np.tile(np.arange(longest), (batch, 1)),
    }
    if cache.short_context is not None:
        feeds[signature.LONG_CONTEXT] = np.array([len(prompt) > cache.short_context for prompt in prompts], np.int64)
    return feeds | empty_cache(cache, batch, longest)


def empty_cache(cache: CacheGeometry, rows: int, length: int) -> dict[str, NDArray[Any]]:
    """The buffers of a cache with room for `length` positions, by the name of their input."""
    feeds: dict[str, NDArray[Any]] = {}
    for i, layer in enumerate(cache.layers):
        shape = (rows, layer.num_key_value_heads, capacity(layer, length), layer.head_dim)
        feeds |= {signature.past(i, kind): np.zeros(shape, cache.dtype) for kind in layer.buffers}
    return feeds
