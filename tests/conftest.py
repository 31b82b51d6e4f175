"""Fixtures that many tests share: a tiny random checkpoint and packages of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import edgelm
from edgelm import home
from edgelm.text_generation import DecoderModel
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config

CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def answers_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where operators' answers are remembered: not in the user's cache, so that each run of the tests asks anew."""
    folder = tmp_path_factory.mktemp("answers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "answers_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama checkpoint in hub layout with a chat template; tests must not change it."""
    config = base_config("llama", hidden_size=64)
    folder = write_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "tiny-llama", config, random_tensors(config, seed=1)
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fp32 package; tests must not change it."""
    return edgelm.export(checkpoint, tmp_path_factory.mktemp("package") / "tiny", precision="fp32", verify=False).path


@pytest.fixture(scope="session")
def model(package: Path) -> DecoderModel:
    """The package, loaded."""
    return edgelm.load(package, threads=1)
