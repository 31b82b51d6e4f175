"""Small encoders for every task, loaded once; tests must not change them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgelm.text_encoding import EncoderModel
from tests.runtime.encoders import encoder_config, load_encoder, write_encoder, write_modules

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def _model(
    factory: pytest.TempPathFactory, class_name: str, labels: tuple[str, ...] = (), **options: Any
) -> EncoderModel:
    folder = factory.mktemp(class_name)
    seed = 6 if class_name == "ElectraForPreTraining" else len(labels)  # with others it finds all alike
    write_encoder(folder / "checkpoint", encoder_config(class_name, labels), seed)
    return load_encoder(folder / "checkpoint", folder / "package", **options)


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    """Mean pooling, no normalization, prompts for queries and documents, none by default."""
    folder = write_encoder(tmp_path_factory.mktemp("embedder") / "checkpoint", encoder_config())
    write_modules(folder, Transformer="", Pooling="1_Pooling")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    prompts = {"query": "who is ", "passage": "the river: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return load_encoder(folder, folder.parent / "package")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    """Three labels, one of which holds."""
    return _model(tmp_path_factory, "BertForSequenceClassification", ("bad", "so so", "good"))


@pytest.fixture(scope="session")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    """A classifier with one output."""
    return _model(tmp_path_factory, "BertForSequenceClassification", ("LABEL_0",))


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    """Labels with prefixes for tokens."""
    return _model(tmp_path_factory, "BertForTokenClassification", TAGS)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    """Finds answers."""
    return _model(tmp_path_factory, "BertForQuestionAnswering")


@pytest.fixture(scope="session")
def filler(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    """Fills masks."""
    return _model(tmp_path_factory, "BertForMaskedLM")


@pytest.fixture(scope="session")
def discriminator(tmp_path_factory: pytest.TempPathFactory) -> EncoderModel:
    """ELECTRA's: tells replaced tokens."""
    return _model(tmp_path_factory, "ElectraForPreTraining")
