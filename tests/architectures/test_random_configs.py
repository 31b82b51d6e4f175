"""Random configurations without a reference: each exports, and agrees with itself. tests/parity compares more of them with transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelm_export.architectures import REGISTRY
from tests.architectures.asked_tensors import asked_tensors
from tests.architectures.decoder_configs import decoder_cases, decoder_types
from tests.architectures.decoder_tables import TABLES as DECODERS
from tests.architectures.encoder_configs import encoder_cases, encoder_classes, encoder_types
from tests.architectures.encoder_tables import OWN as ENCODERS
from tests.architectures.random_checkpoints import random_tensors, tensor_shapes, write_checkpoint
from tests.architectures.random_configs import COMMON, OWN, Case, older_spelling, random_cases, rope_keys
from tests.architectures.running import FLOAT_TOLERANCE, distance, export_and_load, step_logits
from tests.architectures.seq2seq_configs import seq2seq_cases, seq2seq_types
from tests.architectures.seq2seq_tables import TABLES as SEQ2SEQ

COUNT = 6  # a model type; the fewest that hold every value of every table are 5


@pytest.mark.parametrize(
    "case", [case for kind in decoder_types() for case in decoder_cases(kind, COUNT)], ids=lambda case: case.name
)
def test_decode_steps_equal_one_prefill(case: Case, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", case.config, random_tensors(case.config, seed=1))
    model = export_and_load(folder, tmp_path / "package")
    ids = np.random.default_rng(2).integers(3, case.config["vocab_size"], 32).tolist()
    assert distance(step_logits(model, ids[:20], ids[20:]), model.logits(ids)[19:]) < FLOAT_TOLERANCE


@pytest.mark.parametrize("model_type", sorted(REGISTRY))
def test_every_architecture_has_tables(model_type: str) -> None:
    architecture = REGISTRY[model_type]
    tables = SEQ2SEQ if architecture.seq2seq else ENCODERS if architecture.decoder is None else {**OWN, **DECODERS}
    assert model_type in tables


@pytest.mark.parametrize("model_type", sorted(OWN))
def test_every_value_of_a_table_is_tried(model_type: str) -> None:
    configs = [case.config for case in random_cases(model_type, COUNT)]
    for key in ("tie_word_embeddings", "rms_norm_eps", "intermediate_size", "vocab_size", "num_hidden_layers"):
        assert {config[key] for config in configs} == set(COMMON[key])
    spelled = {"rope_parameters" if "rope_parameters" in config else "rope_theta" for config in configs}
    assert spelled == set(COMMON["rope_spelling"])


@pytest.mark.parametrize("case", random_cases("llama", COUNT), ids=lambda case: case.name)
def test_what_an_architecture_asks_for_is_what_its_checkpoints_hold(case: Case) -> None:
    asked = {name: tensor.shape for name, tensor in asked_tensors(case.config).items()}
    assert asked == tensor_shapes(case.config)


def test_the_same_configurations_come_every_time() -> None:
    assert random_cases("llama", 9) == random_cases("llama", 9)


def test_both_spellings_of_rope_say_the_same() -> None:
    for kind in COMMON["rope"]:
        assert older_spelling(rope_keys(kind, 1e4, "rope_parameters")) == rope_keys(kind, 1e4, "rope_theta")


@pytest.mark.parametrize("model_type", encoder_types())
def test_every_class_of_an_encoder_and_every_part_of_its_tables_is_tried(model_type: str) -> None:
    configs = [case.config for case in encoder_cases(model_type)]
    assert {name for config in configs for name in config["architectures"]} >= set(encoder_classes(model_type))
    for column in ENCODERS.get(model_type, {}).values():
        for part in column:
            assert any(part.items() <= config.items() for config in configs)


def test_the_same_encoders_come_every_time() -> None:
    assert encoder_cases("bert") == encoder_cases("bert")


@pytest.mark.parametrize("model_type", seq2seq_types())
def test_every_part_of_the_tables_of_an_encoder_decoder_is_tried(model_type: str) -> None:
    configs = [case.config for case in seq2seq_cases(model_type)]
    assert configs == [case.config for case in seq2seq_cases(model_type)]
    for column in SEQ2SEQ[model_type].values():
        for part in column:
            assert any(part.items() <= config.items() for config in configs)


@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_every_part_of_the_tables_of_a_decoder_is_tried(model_type: str) -> None:
    configs = [case.config for case in decoder_cases(model_type, COUNT)]
    for column in DECODERS[model_type].values():
        for part in column:
            assert any(part.items() <= config.items() for config in configs)
