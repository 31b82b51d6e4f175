"""Inspecting a repository on the hub: its headers are read, its weights stay there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from edgelm.errors import CheckpointError
from edgelm_export.inspection import inspect_checkpoint
from tests.export.fake_hub import FakeHub, Repository, use

MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    # A megabyte of weights behind a header of some kilobytes.
    tensors = load_file(checkpoint / "model.safetensors")
    wide = {name: np.zeros((16384, 64), np.float32) if len(a) == 128 else a for name, a in tensors.items()}
    config = files["config.json"].replace(b'"vocab_size": 128', b'"vocab_size": 16384')
    repositories = {
        "acme/tiny": Repository({**files, "config.json": config, "model.safetensors": save(wide)}),
        "acme/broken": Repository({**files, "model.safetensors": b"\xff" * 300_000}),
    }
    with FakeHub(repositories).serving() as hub:
        use(hub, tmp_path / "hub", monkeypatch)
        yield hub


def test_weights_stay_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    facts = inspect_checkpoint("acme/tiny")
    assert facts["source"] == "acme/tiny"
    assert facts["architecture"] == "llama"
    assert facts["vocab_size"] == 16384
    assert 0 < hub.sent <= 1 << 17
    assert facts["tensor_types"]["float32"]["bytes"] > 8 * hub.sent
    assert not (tmp_path / "hub").exists()


def test_a_header_that_lies_is_refused_as_in_a_local_file(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="model.safetensors: .*download it again"):
        inspect_checkpoint("acme/broken")


def test_errors_of_the_hub_are_those_of_an_export(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="no repository acme/none that you may read"):
        inspect_checkpoint("acme/none")
    with pytest.raises(CheckpointError, match="has no revision 'none'"):
        inspect_checkpoint("acme/tiny", revision="none")


def test_an_embedder_is_seen_as_one(hub: FakeHub) -> None:
    files = hub.repositories["acme/tiny"].files
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in MODULES.items()]
    dense = {"in_features": 64, "out_features": 8, "activation_function": "torch.nn.Tanh"}
    weights = {"linear.weight": np.zeros((8, 64), np.float32), "linear.bias": np.zeros(8, np.float32)}
    beside = {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": b"{}",
        "2_Dense/config.json": json.dumps(dense).encode(),
        "2_Dense/model.safetensors": save(weights),
        "sentence_bert_config.json": b'{"max_seq_length": 32}',
    }
    hub.repositories["acme/embedder"] = Repository({**files, **beside})
    facts = inspect_checkpoint("acme/embedder")
    assert (facts["task"], facts["context_length"]) == ("embedding", 32)
    assert facts["parameters"] == inspect_checkpoint("acme/tiny")["parameters"] + 8 * 64 + 8
