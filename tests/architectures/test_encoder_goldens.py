"""Recorded encoders against what transformers said about them: hidden states, pooled outputs and the logits of every head."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import edgelm
from edgelm.package import Package
from edgelm.signature import LAST_HIDDEN_STATE
from edgelm.tasks import FILL_MASK, HIDDEN_STATES, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from edgelm.text_encoding import EncoderModel
from tests.architectures.encoder_configs import encoder_classes, encoder_types, task_to_ask_for, with_class
from tests.architectures.encoder_goldens import (
    GOLDENS,
    golden_answers,
    golden_batch,
    golden_checkpoint,
    golden_classes,
    golden_config,
    golden_positions,
)
from tests.architectures.encoding import Array, export_encoder, graph, outputs, without_padding
from tests.architectures.running import FLOAT_TOLERANCE, distance
from tests.golden.encoder_cases import encoder_golden_cases

KNOWN = encoder_types()
CASES = sorted(name for name in encoder_golden_cases() if (GOLDENS / name / "config.json").is_file())
CLASSES = [(case, class_name) for case in CASES for class_name in golden_classes(case)]
BASES = [
    (case, class_name) for case in CASES for class_name, task in golden_classes(case).items() if task == HIDDEN_STATES
]
# A head of one layer on the hidden states says nothing that they do not.
ONE_LAYER = (TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
QUANTIZED = [(case, class_name) for case, class_name in CLASSES if golden_classes(case)[class_name] not in ONE_LAYER]
SIZE_LIMIT = 300_000

# Root mean square error of an output relative to its spread. Random weights hold no redundancy, so this is far above
# what trained weights show.
INT8_TOLERANCE = 0.2

Exported = Callable[..., Package]

every_class = pytest.mark.parametrize(("case", "class_name"), CLASSES)
every_case = pytest.mark.parametrize(("case", "class_name"), BASES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    @cache
    def export(case: str, class_name: str, precision: str = "fp32") -> Package:
        folder = tmp_path_factory.mktemp(case)
        checkpoint = golden_checkpoint(case, class_name, folder / "checkpoint")
        task = task_to_ask_for(with_class(golden_config(case), class_name))
        return export_encoder(checkpoint, folder / "package", precision, task=task)

    return export


@every_class
def test_every_output_equals_that_of_transformers(case: str, class_name: str, exported: Exported) -> None:
    package, batch, expected = exported(case, class_name), golden_batch(case), golden_answers(case, class_name)
    assert package.manifest.task == golden_classes(case)[class_name]
    found = outputs(graph(package), batch)
    if package.manifest.task == FILL_MASK:
        found["logits"] = np.take_along_axis(found["logits"], golden_positions(case)[..., None], axis=1)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert distance(without_padding(found[name], batch), without_padding(values, batch)) < FLOAT_TOLERANCE, name


@every_class
def test_padded_equals_unpadded(case: str, class_name: str, exported: Exported) -> None:
    session, batch = graph(exported(case, class_name)), golden_batch(case)
    padded = outputs(session, batch)
    for i, length in enumerate(batch.lengths):
        for name, values in outputs(session, batch.row(i)).items():
            row = padded[name][i, :length] if values.ndim > 2 else padded[name][i]
            assert distance(row, values[0], among=padded[name]) < FLOAT_TOLERANCE, name


@every_class
def test_a_checkpoint_with_a_head_has_the_same_hidden_states(case: str, class_name: str, tmp_path: Path) -> None:
    """Names with the prefix and without; tensors of a head that nobody asked for."""
    batch, checkpoint = golden_batch(case), golden_checkpoint(case, class_name, tmp_path / "checkpoint")
    found = outputs(graph(export_encoder(checkpoint, tmp_path / "package", task=HIDDEN_STATES)), batch)
    pair = (found[LAST_HIDDEN_STATE], golden_answers(case, class_name)[LAST_HIDDEN_STATE])
    assert distance(*(without_padding(values, batch) for values in pair)) < FLOAT_TOLERANCE


@every_case
def test_texts_do_not_depend_on_their_batch(case: str, class_name: str, exported: Exported) -> None:
    model, ids = edgelm.load(exported(case, class_name).path, threads=1), golden_batch(case).ids[1].tolist()
    assert isinstance(model, EncoderModel)
    texts = [ids[:n] for n in (9, 24, 1, 24, 17, 2, 9)]
    alone = [model.hidden_states(text) for text in texts]
    for batch_size in (1, 2, 7):
        for step in (1, -1):
            found = model.hidden_states(texts[::step], batch_size=batch_size)
            for vectors, expected in zip(found, alone[::step], strict=True):
                assert distance(vectors, expected) < FLOAT_TOLERANCE


@pytest.mark.parametrize(("case", "class_name"), QUANTIZED)
def test_int8_is_close_to_float(case: str, class_name: str, exported: Exported) -> None:
    batch = golden_batch(case)
    reference, found = (outputs(graph(exported(case, class_name, name)), batch) for name in ("fp32", "int8"))
    for name, values in reference.items():
        error = _spread_error(without_padding(found[name], batch), without_padding(values, batch))
        assert 0 < error < INT8_TOLERANCE, name


def test_norms_under_their_first_names_are_read(tmp_path: Path, exported: Exported) -> None:
    """`gamma` and `beta`, as checkpoints have them that were converted from TensorFlow."""
    checkpoint = golden_checkpoint("bert", "BertModel", tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    older = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for name, v in tensors.items()
    }
    assert len(set(older) - set(tensors)) == 10
    save_file(older, checkpoint / "model.safetensors", metadata={"format": "pt"})
    batch = golden_batch("bert")
    found = outputs(graph(export_encoder(checkpoint, tmp_path / "package")), batch)
    expected = outputs(graph(exported("bert", "BertModel")), batch)
    assert np.array_equal(found[LAST_HIDDEN_STATE], expected[LAST_HIDDEN_STATE])


@pytest.mark.parametrize("model_type", KNOWN)
def test_every_head_of_every_architecture_has_a_golden(model_type: str) -> None:
    recorded = {
        name for case in CASES if golden_config(case)["model_type"] == model_type for name in golden_classes(case)
    }
    assert recorded == set(encoder_classes(model_type))


@pytest.mark.parametrize("case", CASES)
def test_goldens_are_small(case: str) -> None:
    assert sum(file.stat().st_size for file in (GOLDENS / case).iterdir()) < SIZE_LIMIT


def _spread_error(found: Array, reference: Array) -> float:
    return float(np.sqrt(np.mean((found - reference) ** 2)) / reference.std())
