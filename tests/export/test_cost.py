from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgelm.cli import cli
from edgelm.package import Package
from edgelm_export import cost as module
from edgelm_export.cost import Cost, bits_per_weight
from edgelm_export.pipeline import ExportOptions, export


def test_time_is_split_by_what_it_was_spent_on(checkpoint: Path, tmp_path: Path) -> None:
    cost = Cost()
    package = export(checkpoint, tmp_path / "out", ExportOptions(precision="fp32", verify=False), cost=cost)
    assert list(cost.seconds) == ["finding the source", "digests", "calibrating", "writing"]
    assert min(cost.seconds.values()) >= 0
    figures = cost.as_dict(package)
    source = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert figures["bytes_read"] >= source
    assert figures["peak_memory_mib"] > 1


def test_bits_of_a_weight(package: Path) -> None:
    opened = Package.open(package)
    assert 32 <= bits_per_weight(opened) < 33  # tensors begin at multiples of 64 bytes


def test_the_command_tells(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["export", str(checkpoint), "-o", str(tmp_path / "out"), "--precision", "fp32", "--no-verify"]
    result = CliRunner().invoke(cli, arguments)
    assert result.stdout.splitlines()[-1].startswith("  cost: 32.")
    assert " s writing, " in result.stdout
    told = json.loads(CliRunner().invoke(cli, [*arguments, "--force", "--json"]).stdout)["cost"]
    assert told.keys() == {"seconds", "peak_memory_mib", "bytes_read", "bits_per_weight"}


def test_a_system_that_does_not_count_bytes(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_bytes_read", lambda: None)
    assert "MB read" not in Cost().describe(Package.open(package))
