"""Random configurations of every model type, live: the package's logits and tokens against those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import transformers

from edgelm.text_generation import DecoderModel
from tests.architectures.decoder_configs import decoder_cases, decoder_types
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import OWN, Case
from tests.architectures.running import FLOAT_TOLERANCE, GREEDY, Logits, distance, export_and_load, step_logits
from tests.parity.reference import READS_ROPE_PARAMETERS, load_reference, reference_greedy, reference_logits

# The types whose parts all others are made of get more. An older transformers may not know a type yet, and gets every second
# case: what it can find is a config that it reads otherwise.
CASES = [
    case
    for model_type in decoder_types()
    for case in decoder_cases(model_type, 16 if model_type in OWN else 6)[:: 1 if READS_ROPE_PARAMETERS else 2]
    if all(hasattr(transformers, name) for name in case.config["architectures"])
]
PROMPT_TOKENS, NEW_TOKENS = 40, 16

Noted = Callable[[str, float], float]

# Greedy tokens can only be demanded where each wins by more than both sides may differ.
CLEAR_WIN = 2 * FLOAT_TOLERANCE


@dataclass(frozen=True)
class Pair:
    """A checkpoint on both sides, a prompt, and the reference's greedy continuation with the logits it was taken from."""

    model_type: str
    reference: Any
    model: DecoderModel
    ids: list[int]
    tokens: list[int]
    steps: Logits


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param
    folder, seed = tmp_path_factory.mktemp("case"), CASES.index(case)
    checkpoint = write_checkpoint(folder / "checkpoint", case.config, random_tensors(case.config, seed))
    reference = load_reference(checkpoint)
    prompt = _clear_prompt(reference, case.config["vocab_size"], seed)
    return Pair(case.config["model_type"], reference, export_and_load(checkpoint, folder / "package"), *prompt)


def test_logits_of_a_prompt_are_equal(pair: Pair, noted: Noted) -> None:
    error = distance(pair.model.logits(pair.ids), reference_logits(pair.reference, pair.ids))
    assert noted(pair.model_type, error) < FLOAT_TOLERANCE


def test_decode_steps_are_equal(pair: Pair, noted: Noted) -> None:
    error = distance(step_logits(pair.model, pair.ids, pair.tokens[:-1]), pair.steps)
    assert noted(pair.model_type, error) < FLOAT_TOLERANCE


def test_greedy_tokens_are_equal(pair: Pair) -> None:
    found = pair.model.generate(pair.ids, max_new_tokens=NEW_TOKENS, eos_token_id=(), **GREEDY).token_ids
    assert found == pair.tokens


def test_a_ragged_batch_is_equal_row_by_row(pair: Pair, noted: Noted) -> None:
    prompts = [pair.ids[:5], pair.ids, pair.ids[3:29]]
    decoder = pair.model.decoder(len(prompts))
    first = np.stack([decoder.prefill(row, prompt).copy() for row, prompt in enumerate(prompts)])
    token = pair.ids[-1]
    second = decoder.step([token] * len(prompts)).copy()
    for row, prompt in enumerate(prompts):
        expected = reference_logits(pair.reference, [*prompt, token])
        error = distance(np.stack([first[row], second[row]]), expected[-2:])
        assert noted(pair.model_type, error) < FLOAT_TOLERANCE


def _clear_prompt(reference: Any, vocab_size: int, seed: int) -> tuple[list[int], list[int], Logits]:
    """The first random prompt whose greedy continuation is no coin toss anywhere, with that continuation."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        ids = rng.integers(3, vocab_size, PROMPT_TOKENS).tolist()
        tokens, steps = reference_greedy(reference, ids, NEW_TOKENS)
        first, second = np.sort(steps, axis=-1)[:, :-3:-1].T
        if (first - second).min() > CLEAR_WIN * np.abs(steps).max():
            return ids, tokens, steps
    raise ValueError("20 prompts in a row run into near ties; the random weights are too flat")
