"""What a CrossEncoder of sentence-transformers makes of its logit, as its releases write it down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import UnsupportedConfig
from edgelm.tasks import MULTI_LABEL, REGRESSION, RERANKING, SEQUENCE_CLASSIFICATION
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.manifest import encoder_facts
from edgelm_export.model import understand
from edgelm_export.quantize.recipe import preset
from tests.runtime.encoders import encoder_config, write_encoder

IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"


def checkpoint(folder: Path, settings: dict[str, Any] | None = None, **config: Any) -> Path:
    """A classifier with one output; `settings` are those of release 5.4 and later, which lists its modules too."""
    write_encoder(folder, encoder_config("BertForSequenceClassification", ("LABEL_0",), **config))
    if settings is not None:
        module = {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.base.modules.transformer.Transformer",
        }
        (folder / "modules.json").write_text(json.dumps([module]))
        (folder / "config_sentence_transformers.json").write_text(
            json.dumps({"model_type": "CrossEncoder", **settings})
        )
    return folder


@pytest.mark.parametrize(
    ("settings", "config", "expected"),
    [
        (None, {}, MULTI_LABEL),
        (None, {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.0.1"}}, REGRESSION),
        (None, {"sentence_transformers": {"activation_fn": SIGMOID}}, MULTI_LABEL),
        (None, {"sbert_ce_default_activation_function": IDENTITY}, REGRESSION),
        (None, {"sbert_ce_default_activation_function": None}, MULTI_LABEL),
        ({"activation_fn": IDENTITY}, {}, REGRESSION),
        ({"activation_fn": SIGMOID}, {"sentence_transformers": {"activation_fn": IDENTITY}}, MULTI_LABEL),
        ({}, {}, MULTI_LABEL),
    ],
)
def test_the_logit_is_a_sigmoid_s_unless_the_checkpoint_names_another(
    tmp_path: Path, settings: dict[str, Any] | None, config: dict[str, Any], expected: str
) -> None:
    model = understand(open_checkpoint(checkpoint(tmp_path / "model", settings, **config)))
    assert model.task.name == RERANKING
    assert encoder_facts(model, preset("fp32", 1)).problem_type == expected
    assert model.config.notes == ()


def test_settings_in_a_file_of_their_own_are_among_the_sources(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", {"activation_fn": IDENTITY})
    assert folder / "config_sentence_transformers.json" in understand(open_checkpoint(folder)).checkpoint.files


@pytest.mark.parametrize("activation", ["torch.nn.modules.activation.Tanh", "somebody.Sigmoid"])
def test_other_activations_are_refused(tmp_path: Path, activation: str) -> None:
    folder = checkpoint(tmp_path / "model", {"activation_fn": activation})
    match = rf"activation '{activation}' of this CrossEncoder is not supported \(known: torch's Sigmoid, Identity\); export it with"
    with pytest.raises(UnsupportedConfig, match=match):
        understand(open_checkpoint(folder))
    assert understand(open_checkpoint(folder), task=SEQUENCE_CLASSIFICATION).task.name == SEQUENCE_CLASSIFICATION
