"""Inspecting a repository on the hub: its headers are read, its weights stay there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from edgelm.errors import CheckpointError
from edgelm_export.inspection import inspect_checkpoint
from tests.export.fake_hub import FakeHub, Repository, use


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
