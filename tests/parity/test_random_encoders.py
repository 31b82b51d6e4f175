"""Random configurations of every encoder, live: hidden states, pooled output and logits of each head against transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgelm.manifest import Manifest
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.model import understand
from tests.architectures.encoder_configs import (
    TWO_HEADED,
    encoder_cases,
    encoder_classes,
    encoder_types,
    task_to_ask_for,
)
from tests.architectures.encoding import (
    Batch,
    export_encoder,
    graph,
    outputs,
    ragged_batch,
    without_padding,
    write_encoder_checkpoint,
)
from tests.architectures.random_configs import Case
from tests.architectures.running import FLOAT_TOLERANCE, distance
from tests.parity.encoder_reference import (
    Answers,
    answers,
    first_id,
    is_known,
    random_encoder,
    saved_tensors,
    takes_types,
)

CASES = [case for model_type in encoder_types() for case in encoder_cases(model_type)]
MOST_TOKENS = 160

Noted = Callable[[str, float], float]


@dataclass(frozen=True)
class Pair:
    """A checkpoint on both sides, and a ragged batch with the reference's answers."""

    case: Case
    folder: Path
    reference: Any
    manifest: Manifest
    session: Any
    batch: Batch
    expected: Answers


@pytest.fixture(scope="module", params=[case for case in CASES if is_known(case.config)], ids=lambda case: case.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param
    folder, seed = tmp_path_factory.mktemp("case"), CASES.index(case)
    reference = random_encoder(case.config, seed)
    tensors = {name: values.numpy() for name, values in saved_tensors(reference, folder / "saved").items()}
    checkpoint = write_encoder_checkpoint(folder / "checkpoint", case.config, tensors)
    package = export_encoder(checkpoint, folder / "package", task=task_to_ask_for(case.config))
    batch = ragged_batch(
        (5, min(package.manifest.context_length, MOST_TOKENS), 23, 1),
        ids=(first_id(reference), case.config["vocab_size"]),
        types=reference.config.type_vocab_size if takes_types(reference) else 0,
        pad_token_id=reference.config.pad_token_id or 0,
        seed=seed,
    )
    return Pair(case, folder, reference, package.manifest, graph(package), batch, answers(reference, batch))


def test_every_output_of_a_padded_batch_is_equal(pair: Pair, noted: Noted) -> None:
    _compare(pair, pair.batch, noted)


@pytest.mark.parametrize("row", range(4))
def test_every_output_of_a_text_alone_is_equal(pair: Pair, row: int, noted: Noted) -> None:
    _compare(pair, pair.batch.row(row), noted)


def test_the_checkpoint_is_exported_for_what_its_class_was_trained_for(pair: Pair) -> None:
    model_type, (class_name,) = pair.case.config["model_type"], pair.case.config["architectures"]
    wanted = {**encoder_classes(model_type), **TWO_HEADED.get(model_type, {})}[class_name]
    assert pair.manifest.task in (wanted, "reranking" if len(pair.manifest.encoder_facts.labels) == 1 else wanted)
    assert pair.manifest.encoder_facts.token_types == takes_types(pair.reference)


def test_the_config_that_transformers_writes_says_the_same(pair: Pair) -> None:
    """All keys spelled out, in the words of this version."""
    ours, theirs = (understand(open_checkpoint(pair.folder / name)) for name in ("checkpoint", "saved"))
    assert theirs.config == ours.config
    assert (theirs.notes, theirs.task) == ((), ours.task)


def _compare(pair: Pair, batch: Batch, noted: Noted) -> None:
    expected, found = answers(pair.reference, batch), outputs(pair.session, batch)
    assert set(found) == set(expected)
    for name, values in expected.items():
        here, there = (without_padding(array, batch) for array in (found[name], values))
        error = distance(here, there, among=without_padding(pair.expected[name], pair.batch))
        assert noted(pair.case.config["model_type"], error) < FLOAT_TOLERANCE, name
