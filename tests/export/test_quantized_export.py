"""Quantized checkpoints all the way: exported, inspected on disk and on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import edgelm
from edgelm.errors import CheckpointError, UnsupportedConfig
from edgelm_export.inspection import inspect_checkpoint
from tests.architectures.running import step_logits
from tests.export.fake_hub import FakeHub, Repository, use
from tests.export.quantized_checkpoints import in_fp8, requantized

BLOCK_FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [16, 24],
    "modules_to_not_convert": ["lm_head"],
}


@pytest.fixture(scope="module")
def pair(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The shared checkpoint with its projections in FP8, and the same values in float32."""
    stored, floats = in_fp8(load_file(checkpoint / "model.safetensors"), (16, 24))
    folder = tmp_path_factory.mktemp("fp8")
    return (
        requantized(checkpoint, folder / "stored", BLOCK_FP8, stored),
        requantized(checkpoint, folder / "floats", None, floats),
    )


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_an_fp8_checkpoint_exports_as_its_float_form_does(
    pair: tuple[Path, Path], tmp_path: Path, precision: str
) -> None:
    packages = [
        edgelm.export(source, tmp_path / source.name, precision=precision, verify=False).path for source in pair
    ]
    data = [(package / "decoder.onnx.data").read_bytes() for package in packages]
    assert data[0] == data[1]
    found, expected = (step_logits(edgelm.load(package, threads=1), [5, 6, 7], [8, 9]) for package in packages)
    np.testing.assert_array_equal(found, expected)


def test_inspect_shows_how_the_weights_are_stored(pair: tuple[Path, Path]) -> None:
    stored, floats = (inspect_checkpoint(source) for source in pair)
    assert stored["quantization"] == "fp8 (one scale a 16 x 24 block): 14 tensors"
    assert "quantization" not in floats
    assert stored["tensor_types"]["float8_e4m3fn"]["tensors"] == 14
    assert stored["tensor_types"]["float8_e4m3fn"]["bytes"] < floats["tensor_types"]["float32"]["bytes"] / 4
    for key in ("parameters", "export_bytes", "notes"):
        assert stored[key] == floats[key]


def test_a_quantized_repository_is_inspected_without_its_weights(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {file.name: file.read_bytes() for file in pair[0].iterdir()}
    with FakeHub({"acme/fp8": Repository(files)}).serving() as hub:
        use(hub, tmp_path / "hub", monkeypatch)
        facts = inspect_checkpoint("acme/fp8")
    assert {**facts, "source": ""} == {**inspect_checkpoint(pair[0]), "source": ""}


def test_a_scale_that_is_no_number_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    stored, _ = in_fp8(load_file(checkpoint / "model.safetensors"), (16, 24))
    stored["model.layers.1.mlp.down_proj.weight_scale_inv"][0, 0] = np.nan
    source = requantized(checkpoint, tmp_path / "broken", BLOCK_FP8, stored)
    with pytest.raises(
        CheckpointError, match=r"down_proj\.weight <- model\.layers\.1\.mlp\.down_proj\.weight holds NaN"
    ):
        edgelm.export(source, tmp_path / "out", precision="fp32", verify=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (
            {"quant_method": "hqq", "bits": 4},
            r"quantization_config 'hqq' is not read yet \(known: awq, bitsandbytes, .*, mxfp4\); take the unquantized",
        ),
        ({"bits": 4}, r"quantization_config of an unnamed kind is not read yet \(known: "),
        ("fp8", r"quantization_config of an unnamed kind is not read yet"),
    ],
)
def test_a_method_nobody_knows_is_refused_with_all_else(
    pair: tuple[Path, Path], tmp_path: Path, quantization: Any, message: str
) -> None:
    source = requantized(pair[1], tmp_path / "unknown", quantization, load_file(pair[1] / "model.safetensors"))
    config = json.loads((source / "config.json").read_text()) | {"hidden_act": "xielu"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedConfig, match=rf"hidden_act 'xielu' is not supported .*{message}"):
        inspect_checkpoint(source)
