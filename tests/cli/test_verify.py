"""edgelm verify as typed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

import edgelm
from edgelm.cli import cli
from edgelm.errors import InvalidOption
from edgelm.package import Package
from edgelm.providers import PROVIDERS
from edgelm_export.against import measure_again
from tests.architectures.encoder_goldens import golden_checkpoint
from tests.runtime.growing_models import decoder_package


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)])


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgelm.export(checkpoint, tmp_path_factory.mktemp("verify") / "out", precision="int4").path


def test_a_sound_package_is_a_line_a_check_and_exit_code_0(package: Path) -> None:
    result = run(package)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(line.startswith("ok      ") for line in lines)
    assert any("com.microsoft GroupQueryAttention" in line for line in lines)
    assert lines[-1].split()[1:] == ["recorded", "run", "24", "of", "24", "outputs", "as", "recorded"]


def test_a_changed_package_is_exit_code_1_and_says_what_to_do(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    content = bytearray((copy / "tokenizer.json").read_bytes())
    content[100] ^= 4
    (copy / "tokenizer.json").write_bytes(content)
    result = run(copy, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"]) == (1, False)
    assert [check["ok"] for check in found["checks"]] == [True, False]
    assert "tokenizer.json was changed since the export" in found["checks"][-1]["detail"]
    assert run(copy).stdout.splitlines()[-1].startswith("failed  digests")


def test_against_its_checkpoint_the_card_is_measured_again(package: Path, checkpoint: Path) -> None:
    result = run(package, "--against", checkpoint)
    assert result.exit_code == 0, result.output
    prefill = next(line for line in result.stdout.splitlines() if "quality of prefill" in line)
    recorded = Package.open(package).manifest.quality["prefill"]["mean_kld"]
    assert f"mean kld {recorded:.4g} (recorded {recorded:.4g})" in prefill


def test_an_encoder_is_measured_again_too(tmp_path: Path) -> None:
    source = golden_checkpoint("bert", "BertForSequenceClassification", tmp_path / "source")
    package = edgelm.export(source, tmp_path / "out").path
    result = run(package, "--against", source)
    assert result.exit_code == 0, result.output
    assert "quality of outputs" in result.stdout


def test_what_was_measured_is_recorded_where_that_is_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    # As on a machine with a GPU, for a package that was exported on one without.
    out = tmp_path / "out"
    edgelm.export(checkpoint, out, precision="int4", device="cpu,cuda", verify=False)
    result = run(out, "--device", "cpu", "--against", checkpoint, "--record")
    assert result.exit_code == 0, result.output
    assert f"recorded in {out}" in result.stderr
    package = Package.open(out)
    package.verify_digests()
    assert package.manifest.quality["prefill"]["mean_kld"] > 0
    assert package.manifest.on("cuda").quality == {}
    assert run(out).stdout.splitlines()[-1].split()[1:] == [
        "recorded",
        "run",
        "24",
        "of",
        "24",
        "outputs",
        "as",
        "recorded",
    ]
    assert run(out, "--record").exit_code == 2


def test_a_card_that_is_missing_is_told(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edgelm.export(checkpoint, out, precision="int4", device="cpu,cuda", activations="bf16")
    manifest = Package.open(out).manifest
    replace(manifest, quality=manifest.on("cuda").quality).save(out)
    [line] = [line for line in run(out).stdout.splitlines() if "quality card" in line]
    assert "built, not run here" in line


def test_another_checkpoint_is_told(package: Path, checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {"model.norm.weight": np.ones(64, np.float32)}, copy / "model.safetensors")
    result = run(package, "--against", copy)
    assert result.exit_code == 1
    assert "is not what" in result.stdout
    assert "model.safetensors differ; name the checkpoint tiny-llama" in result.stdout


def test_another_text_is_told_and_ones_own_can_be_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("wa zu ki " * 50)
    package = edgelm.export(checkpoint, tmp_path / "out", eval_text=tmp_path / "own.txt").path
    result = run(package, "--against", checkpoint)
    assert result.exit_code == 1
    assert "was measured on the text own.txt" in result.stdout
    assert "--eval-text" in result.stdout
    assert run(package, "--against", checkpoint, "--eval-text", tmp_path / "own.txt").exit_code == 0
    assert run(package, "--eval-text", tmp_path / "own.txt").exit_code == 2


def test_a_package_of_optimum_is_not_measured_again(tmp_path: Path) -> None:
    made = Package.open(decoder_package(tmp_path / "package"))
    with pytest.raises(InvalidOption, match="was exported by Optimum; export the checkpoint again to measure it"):
        measure_again(made, "x", PROVIDERS["cpu"], None, lambda _: None)


def test_a_name_that_is_no_package_is_one_line() -> None:
    result = run("no-such-package")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
