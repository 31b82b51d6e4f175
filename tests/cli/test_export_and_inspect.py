"""edgelm export and edgelm inspect as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgelm.cli import cli
from edgelm.cli.export import default_output


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_export_prints_the_quality_it_measured(checkpoint: Path, tmp_path: Path) -> None:
    result = run("export", checkpoint, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for part in ("llama", "int4", "prefill", "decode", "KL divergence mean", "top-1 agreement", "perplexity"):
        assert part in result.stdout
    assert "verification needs about" in result.stderr


def test_export_prints_one_json_object(checkpoint: Path, tmp_path: Path) -> None:
    result = run("export", checkpoint, "-o", tmp_path / "out", "--json", "--precision", "int8")
    facts = json.loads(result.stdout)
    assert facts["precision"] == "int8"
    assert facts["quality"]["prefill"]["mean_kld"] >= 0


def test_an_export_that_was_not_verified_says_so(checkpoint: Path, tmp_path: Path) -> None:
    result = run("export", checkpoint, "-o", tmp_path / "out", "--no-verify")
    assert "quality not measured (--no-verify)" in result.stdout


def test_errors_are_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("export", tmp_path / "empty", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("edgelm: ")
    assert result.stderr.count("\n") == 1


def test_usage_errors_exit_with_2(checkpoint: Path) -> None:
    assert run("export", checkpoint, "--no-such-option").exit_code == 2
    assert run("export").exit_code == 2


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b/model-q4.gguf", "model-q4-int4"),
        ("owner/name", "name-int4"),
        ("name:weird name.gguf", "name-weird-name-int4"),
    ],
)
def test_the_default_folder_is_named_after_the_source(source: str, expected: str) -> None:
    assert default_output(source, "int4") == Path(expected)


def test_inspect_reads_a_checkpoint(checkpoint: Path) -> None:
    facts = json.loads(run("inspect", checkpoint, "--json").stdout)
    assert facts["architecture"] == "llama"
    assert facts["tensor_types"]["float32"]["tensors"] == 21
    assert facts["cache_bytes_per_1000_tokens"] == 1000 * 2 * 2 * 2 * 16 * 4
    assert facts["export_bytes"]["int4"] < facts["export_bytes"]["int8"] < facts["export_bytes"]["fp32"]
    text = run("inspect", checkpoint).stdout
    assert "architecture:" in text
    assert "cache per 1000 tokens:" in text


def test_inspect_reads_no_weight(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgelm_export.checkpoint.base import LazyTensor

    def refuse(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(LazyTensor, "read", refuse)
    assert run("inspect", checkpoint).exit_code == 0


def test_the_planned_size_is_the_real_one(checkpoint: Path, package: Path) -> None:
    facts = json.loads(run("inspect", checkpoint, "--json").stdout)
    written = (package / "decoder.onnx.data").stat().st_size
    assert facts["export_bytes"]["fp32"] <= written < facts["export_bytes"]["fp32"] + 64 * 64


def test_inspect_reads_a_package(package: Path) -> None:
    facts = json.loads(run("inspect", package, "--json").stdout)
    assert facts["precision"] == "fp32"
    assert facts["family"] == "decoder"
    assert "size:" in run("inspect", package).stdout


def test_help_is_there_for_every_command() -> None:
    for name in cli.commands or cli.list_commands(None):  # type: ignore[arg-type]
        result = run(name, "--help")
        assert result.exit_code == 0
        assert "Usage:" in result.stdout
    assert run("nonsense").exit_code == 2
    assert "0.1.0" in run("--version").stdout


def test_the_package_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "edgelm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == run("--version").stdout
