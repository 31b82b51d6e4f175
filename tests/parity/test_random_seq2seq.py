"""Random configurations of every encoder-decoder, live: encoder states and teacher-forced logits against transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.tasks import TEXT_TO_TEXT
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.model import understand
from tests.architectures.encoding import Array, Batch, export_encoder, ragged_batch, without_padding
from tests.architectures.random_configs import Case
from tests.architectures.running import FLOAT_TOLERANCE, Logits, distance
from tests.architectures.seq2seq_configs import seq2seq_cases, seq2seq_types, target_vocabulary
from tests.architectures.seq2seq_running import (
    Programs,
    Targets,
    encoder_states,
    forced_logits,
    open_programs,
    write_seq2seq_checkpoint,
)
from tests.parity.encoder_reference import saved_tensors
from tests.parity.seq2seq_reference import encoder_answer, forced_answer, is_known, random_seq2seq

CASES = [case for model_type in seq2seq_types() for case in seq2seq_cases(model_type)]
FIRST_ID = 6  # no token of a text begins, ends or pads it
MOST_TOKENS, TARGET_TOKENS = 150, 36

Noted = Callable[[str, float], float]


@dataclass(frozen=True)
class Pair:
    """A checkpoint on both sides, ragged sources and targets, with the reference's answers."""

    case: Case
    folder: Path
    programs: Programs
    reference: Any
    batch: Batch
    targets: Targets
    states: Array
    logits: Logits

    @property
    def model_type(self) -> str:
        return self.case.config["model_type"]


@pytest.fixture(scope="module", params=[case for case in CASES if is_known(case.config)], ids=lambda case: case.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param
    folder, seed = tmp_path_factory.mktemp("case"), CASES.index(case)
    reference = random_seq2seq(case.config, seed)
    tensors = {name: values.numpy() for name, values in saved_tensors(reference, folder / "saved").items()}
    checkpoint = write_seq2seq_checkpoint(folder / "checkpoint", case.config, tensors)
    package = export_encoder(checkpoint, folder / "package")
    assert package.manifest.task == TEXT_TO_TEXT
    longest = min(package.manifest.context_length, MOST_TOKENS)
    batch = _sources(case, (5, longest, 23, 1), reference.config.pad_token_id, seed)
    targets = _targets(case, len(batch.ids), seed)
    states, logits = encoder_answer(reference, batch), forced_answer(reference, batch, targets)
    return Pair(case, folder, open_programs(package), reference, batch, targets, states, logits)


def test_encoder_states_of_a_padded_batch_are_equal(pair: Pair, noted: Noted) -> None:
    found = encoder_states(pair.programs, pair.batch)
    error = distance(*(without_padding(states, pair.batch) for states in (found, pair.states)))
    assert noted(pair.model_type, error) < FLOAT_TOLERANCE


@pytest.mark.parametrize("row", range(4))
def test_a_source_alone_is_equal(pair: Pair, row: int) -> None:
    batch, targets = pair.batch.row(row), pair.targets[row : row + 1]
    pairs = (
        (encoder_states(pair.programs, batch), encoder_answer(pair.reference, batch), pair.states),
        (forced_logits(pair.programs, batch, targets), forced_answer(pair.reference, batch, targets), pair.logits),
    )
    for found, expected, among in pairs:
        assert distance(found, expected, among=among) < FLOAT_TOLERANCE


def test_teacher_forced_logits_are_equal(pair: Pair, noted: Noted) -> None:
    error = distance(forced_logits(pair.programs, pair.batch, pair.targets), pair.logits)
    assert noted(pair.model_type, error) < FLOAT_TOLERANCE


def test_decode_steps_are_equal(pair: Pair, noted: Noted) -> None:
    found = forced_logits(pair.programs, pair.batch, pair.targets, chunks=TARGET_TOKENS)
    assert noted(pair.model_type, distance(found, pair.logits)) < FLOAT_TOLERANCE


def test_targets_in_chunks_are_equal(pair: Pair) -> None:
    found = forced_logits(pair.programs, pair.batch.row(1), pair.targets[1:2], chunks=3)
    assert distance(found, pair.logits[1:2], among=pair.logits) < FLOAT_TOLERANCE


def test_the_config_that_transformers_writes_says_the_same(pair: Pair) -> None:
    """All keys spelled out, in the words of this version; version 5 does not say whether T5's head is tied."""
    ours, theirs = (understand(open_checkpoint(pair.folder / name)) for name in ("checkpoint", "saved"))
    assert _without_tie(theirs.config) == _without_tie(ours.config)
    assert (theirs.notes, theirs.task) == ((), ours.task)


def _without_tie(config: Any) -> Any:
    decoder = replace(config.decoder, tie_word_embeddings=None)
    return replace(config, tie_word_embeddings=None, decoder=decoder)


def _sources(case: Case, lengths: tuple[int, ...], pad_token_id: int, seed: int) -> Batch:
    ids = (FIRST_ID, min(case.config["vocab_size"], 103))
    return ragged_batch(lengths, ids=ids, types=0, pad_token_id=pad_token_id, seed=seed)


def _targets(case: Case, rows: int, seed: int) -> Targets:
    ids = np.random.default_rng(seed).integers(
        FIRST_ID, min(target_vocabulary(case.config), 103), (rows, TARGET_TOKENS)
    )
    ids[:, 0] = case.config["decoder_start_token_id"]
    return ids
