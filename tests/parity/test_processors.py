"""Processors and filters, live: what is left of random logits, one by one and all together, as transformers leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig as Reference
from transformers import GenerationMixin

from edgelm.constraints import Span, constraints
from edgelm.filters import Candidates
from edgelm.generation_defaults import read_generation_config
from edgelm.sampling import FILTERS, PROCESSORS, Sampler
from tests.parity.reference import quiet

Logits = NDArray[np.float32]

END = (2, 5)

# One setting each, in the spelling of both sides.
PROCESSED: list[dict[str, Any]] = [
    {"sequence_bias": [[[3], 2.5], [[4], -1.0], [[7, 8], 3.0], [[1, 9, 8], -2.0]]},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": [[3], [7, 8], [5]]},
    {"min_new_tokens": 4},
    {"suppress_tokens": [1, 2, 3]},
    {"begin_suppress_tokens": [1, 2, 3]},
    {"forced_eos_token_id": 2},
]
NARROWED: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 1.9},
    *({"top_k": count} for count in (1, 5, 60)),
    *({"top_p": mass} for mass in (0.05, 0.5, 0.9, 0.999)),
    *({"min_p": share} for share in (0.001, 0.1, 0.9)),
    *({"typical_p": mass} for mass in (0.1, 0.5, 0.9, 0.99)),
    *({"epsilon_cutoff": least} for least in (0.0003, 0.02, 0.9)),
    *({"eta_cutoff": least} for least in (0.0003, 0.02, 0.9)),
]
TOGETHER: list[dict[str, Any]] = [
    {
        "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.97, "epsilon_cutoff": 0.001,
        "eta_cutoff": 0.002, "repetition_penalty": 1.2, "sequence_bias": [[[3], 2.5], [[7, 8], 3.0]],
        "no_repeat_ngram_size": 2, "bad_words_ids": [[11]], "suppress_tokens": [12], "min_new_tokens": 20,
    },
    {"temperature": 1.5, "top_p": 0.8, "typical_p": 0.6, "repetition_penalty": 0.8, "eta_cutoff": 0.01},
    {"temperature": 0.5, "min_p": 0.05, "epsilon_cutoff": 0.02, "sequence_bias": [[[2], 8.0]], "min_new_tokens": 20},
]  # fmt: skip


class Stub:
    """What transformers' `_get_logits_processor` asks of a model."""

    config = type("Config", (), {"is_encoder_decoder": False})()


def expected(ids: Sequence[int], logits: Logits, room: int, options: dict[str, Any]) -> Logits:
    """The processed logits, -inf for what is removed, through the list that transformers' generate makes."""
    model: Any = type("Model", (Stub, GenerationMixin), {})()
    settings = Reference(do_sample=True, **{"top_k": 0, **options}, eos_token_id=list(END), max_length=len(ids) + room)
    settings._eos_token_tensor = torch.tensor(END)
    with quiet():
        chain = model._get_logits_processor(settings, input_ids_seq_length=len(ids))
    return chain(torch.tensor([list(ids)]), torch.tensor(logits[None])).numpy()[0]


def found(ids: Sequence[int], logits: Logits, room: int, options: dict[str, Any]) -> Logits:
    """The same, ours: all processors and filters of a Sampler."""
    config = read_generation_config({"do_sample": True, "top_k": 0, **options, "eos_token_id": list(END)})
    span = Span(len(ids), len(ids) + room, ids)
    sampler: Any = Sampler(config, logits.size, constraints(config, span, logits.size))
    changed = logits.copy()
    for process in sampler._processors:
        changed = process(ids, changed)
    left = Candidates(changed)
    for narrow in sampler._filters:
        left = narrow(left)
    result = np.full(logits.size, -np.inf, np.float32)
    result[slice(None) if left.tokens is None else left.tokens] = left.logits
    return result


def draw(seed: int) -> tuple[list[int], Logits, int]:
    """Ids, logits whose entropy is anything from low to high, and room for more."""
    generator = np.random.default_rng(seed)
    size = (64, 500, 5_000)[seed % 3]
    logits = (generator.standard_normal(size) * generator.choice([0.3, 2.0, 6.0])).astype(np.float32)
    return generator.integers(0, 12, 30).tolist(), logits, 1 + seed % 2 * 30


def probabilities(logits: Logits) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def require_equal(seed: int, options: dict[str, Any]) -> None:
    """The same tokens are left, equally likely."""
    ids, logits, room = draw(seed)
    ours, theirs = found(ids, logits, room, options), expected(ids, logits, room, options)
    apart = np.flatnonzero((ours > -np.inf) != (theirs > -np.inf))
    assert apart.size == 0, f"{apart.size} tokens are left on one side only"
    np.testing.assert_allclose(probabilities(ours), probabilities(theirs), atol=1e-6)


def name(options: dict[str, Any]) -> str:
    return "-".join(f"{key}={'...' if isinstance(value, list) else value}" for key, value in options.items())


@pytest.mark.parametrize("options", PROCESSED, ids=name)
def test_processors_change_the_same(options: dict[str, Any]) -> None:
    for seed in range(12):
        ids, logits, room = draw(seed)
        np.testing.assert_allclose(found(ids, logits, room, options), expected(ids, logits, room, options), rtol=1e-6)


@pytest.mark.parametrize("options", NARROWED, ids=name)
def test_filters_leave_the_same(options: dict[str, Any]) -> None:
    for seed in range(24):
        require_equal(seed, options)


@pytest.mark.parametrize("options", TOGETHER, ids=["many", "few", "bias"])
def test_all_together_leave_the_same(options: dict[str, Any]) -> None:
    for seed in range(40):
        require_equal(seed, options)


@pytest.mark.parametrize("options", NARROWED, ids=name)
def test_filters_leave_the_same_of_what_others_left(options: dict[str, Any]) -> None:
    for seed in range(12):
        require_equal(seed, {"suppress_tokens": list(range(40, 60)), **options})


def test_every_stage_that_transformers_has_is_compared() -> None:
    compared = {key for options in (*PROCESSED, *NARROWED) for key in options}
    ours = {names[0] for _, names in (*PROCESSORS, *FILTERS)} - {"logit_bias"}
    known = set(vars(Reference()))
    assert ours & known <= compared
    assert "sequence_bias" in compared & known
