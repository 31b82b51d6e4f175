"""An export as a whole: what it writes, that it repeats, and that it fails cleanly."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import edgelm
from edgelm.errors import (
    CheckpointError,
    InvalidOption,
    MissingWeights,
    PackageError,
    UnsupportedArchitecture,
    UnsupportedConfig,
    UnusedWeights,
    VerificationError,
    WrongShape,
)
from edgelm.package import Package, sha256
from edgelm_export import float_graph, quality, write
from edgelm_export.graph import GraphBuilder


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change_config(folder: Path, **values: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | values))


def change_tensors(folder: Path, values: Mapping[str, np.ndarray], drop: str = "") -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(drop, None)
    save_file({**tensors, **values}, folder / "model.safetensors")


def fails_cleanly(source: Path, out: Path, error: type[Exception], match: str, **options: Any) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(error, match=match):
        edgelm.export(source, out, **{"verify": False, **options})
    assert sorted(out.parent.iterdir()) == before


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_the_same_export_twice_gives_identical_bytes(checkpoint: Path, tmp_path: Path, precision: str) -> None:
    first, second = (edgelm.export(checkpoint, tmp_path / name, precision=precision) for name in "ab")
    names = sorted(path.name for path in first.path.iterdir())
    assert names == sorted(path.name for path in second.path.iterdir())
    for name in names:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


def test_a_package_moves_as_a_folder(package: Path, checkpoint: Path) -> None:
    for path in package.iterdir():
        content = path.read_bytes()
        assert str(package).encode() not in content
        assert str(checkpoint).encode() not in content


def test_the_manifest_records_where_it_came_from(package: Path, checkpoint: Path) -> None:
    manifest = Package.open(package).manifest
    assert manifest.source["id"] == checkpoint.name
    assert manifest.source["files"]["model.safetensors"] == sha256(checkpoint / "model.safetensors")
    assert manifest.architecture == "llama"
    assert len(manifest.kv_cache.layers) == 2
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= set(manifest.files)


def test_quality_figures_stand_in_the_manifest(checkpoint: Path, tmp_path: Path) -> None:
    exact = edgelm.export(checkpoint, tmp_path / "fp32", precision="fp32").manifest.quality
    coarse = edgelm.export(checkpoint, tmp_path / "int4", precision="int4").manifest.quality
    assert exact["prefill"]["mean_kld"] < 1e-6
    assert exact["decode"]["top1_agreement"] == 1
    assert exact["steps_against_prefill"] < 1e-4
    assert coarse["prefill"]["mean_kld"] > 1e-4
    assert coarse["decode"]["perplexity"] != coarse["decode"]["perplexity_reference"]


def test_half_precision_halves_the_package_and_stays_close(checkpoint: Path, tmp_path: Path, package: Path) -> None:
    half = edgelm.export(checkpoint, tmp_path / "fp16", precision="fp16")
    assert half.size < 0.6 * Package.open(package).size
    assert half.manifest.quality["prefill"]["mean_kld"] < 1e-4


def test_a_shorter_context_is_recorded(checkpoint: Path, tmp_path: Path) -> None:
    package = edgelm.export(checkpoint, tmp_path / "out", precision="fp32", context_length=32, verify=False)
    assert package.manifest.context_length == 32
    assert edgelm.load(package.path).logits(list(range(3, 35))).shape == (32, 128)


def test_missing_tensors_fail_before_anything_is_written(copy: Path, tmp_path: Path) -> None:
    change_tensors(copy, {}, drop="model.layers.1.mlp.up_proj.weight")
    fails_cleanly(
        copy, tmp_path / "out", MissingWeights, "layers.1.up_proj.weight <- model.layers.1.mlp.up_proj.weight"
    )


def test_extra_tensors_fail_before_anything_is_written(copy: Path, tmp_path: Path) -> None:
    change_tensors(copy, {"adapter": np.zeros(3, np.float32)})
    fails_cleanly(copy, tmp_path / "out", UnusedWeights, "does not read.*: adapter$")


def test_wrong_shapes_fail_before_anything_is_written(copy: Path, tmp_path: Path) -> None:
    change_config(copy, intermediate_size=96)
    fails_cleanly(
        copy, tmp_path / "out", WrongShape, r"layers.0.down_proj.weight <- .*: \[64, 80\] in the file, \[64, 96\]"
    )


def test_an_unsupported_config_fails_before_anything_is_written(copy: Path, tmp_path: Path) -> None:
    change_config(copy, hidden_act="xielu")
    fails_cleanly(copy, tmp_path / "out", UnsupportedConfig, "hidden_act 'xielu' is not supported")


def test_an_unknown_architecture_names_the_nearest_and_what_differs(copy: Path, tmp_path: Path) -> None:
    change_config(copy, model_type="gemma9")
    change_tensors(copy, {"model.layers.0.fourth_layernorm.weight": np.ones(64, np.float32)}, drop="lm_head.weight")
    message = (
        r"model type 'gemma9' has no definition in edgelm \(known: .*llama, .*the nearest is \w+, with 11 kinds of tensors in common; "
        r"it does not read model.layers.\{i\}.fourth_layernorm.weight; here is no lm_head.weight"
    )
    fails_cleanly(copy, tmp_path / "out", UnsupportedArchitecture, message)


def test_generation_settings_are_checked_before_weights_are_written(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a data file was opened")

    monkeypatch.setattr(write.DataFile, "__init__", refuse)
    (copy / "generation_config.json").write_text('{"do_sample": true, "temperature": -1}')
    fails_cleanly(copy, tmp_path / "out", UnsupportedConfig, "generation_config.json: .*temperature is -1")


def test_nothing_resembles_another_kind_of_model(copy: Path, tmp_path: Path) -> None:
    change_config(copy, model_type="resnet")
    save_file({"stem.weight": np.ones(3, np.float32)}, copy / "model.safetensors")
    fails_cleanly(copy, tmp_path / "out", UnsupportedArchitecture, "none of them has tensors of these names")


def test_a_tied_head_that_differs_from_the_table_is_refused(copy: Path, tmp_path: Path) -> None:
    change_config(copy, tie_word_embeddings=True)
    fails_cleanly(copy, tmp_path / "out", UnsupportedConfig, r"lm_head.weight differs from model.embed_tokens.weight")
    table = load_file(copy / "model.safetensors")["model.embed_tokens.weight"]
    change_tensors(copy, {"lm_head.weight": table})
    edgelm.export(copy, tmp_path / "out", verify=False)


def test_a_missing_tokenizer_is_known_before_weights_are_read(copy: Path, tmp_path: Path) -> None:
    (copy / "tokenizer.json").unlink()
    fails_cleanly(
        copy, tmp_path / "out", CheckpointError, r"has no tokenizer.json; save the tokenizer in its fast form"
    )


def test_nan_in_a_tensor_leaves_nothing_behind(copy: Path, tmp_path: Path) -> None:
    change_tensors(copy, {"model.norm.weight": np.full(64, np.nan, np.float32)})
    fails_cleanly(
        copy, tmp_path / "out", CheckpointError, "final_norm.weight <- model.norm.weight holds NaN or infinity"
    )


def test_a_disk_that_fills_up_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: write.DataFile, *_: object) -> tuple[str, int, int]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write.DataFile, "add", full)
    fails_cleanly(checkpoint, tmp_path / "out", PackageError, "is full; nothing was left behind")


def test_an_existing_package_is_safe_from_a_failing_export(copy: Path, package: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(package, tmp_path / "out"))
    change_tensors(copy, {}, drop="model.norm.weight")
    with pytest.raises(MissingWeights):
        edgelm.export(copy, target, force=True)
    Package.open(target).verify_digests()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"precision": "int5"}, "precision 'int5' is not known"),
        ({"device": "tpu"}, r"device 'tpu' is not known \(known: cpu"),
        ({"trust_remote_code": True}, "export has no option trust_remote_code"),
    ],
)
def test_unknown_options_are_errors(checkpoint: Path, tmp_path: Path, options: dict[str, Any], match: str) -> None:
    fails_cleanly(checkpoint, tmp_path / "out", InvalidOption, match, **options)


def test_nan_in_the_logits_fails_the_export(copy: Path, tmp_path: Path) -> None:
    huge = np.full((128, 64), 3e38, np.float32)
    change_tensors(copy, {"lm_head.weight": huge})
    fails_cleanly(
        copy, tmp_path / "out", VerificationError, "yields NaN or infinite logits", precision="fp32", verify=True
    )


def test_a_float_export_that_disagrees_with_itself_fails(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = GraphBuilder.op

    def broken(self: GraphBuilder, op_type: str, *inputs: Any, **attributes: Any) -> Any:
        if op_type == "GroupQueryAttention":  # a rotary layout that prefill and steps see at different offsets
            attributes["local_window_size"] = 2
            attributes["smooth_softmax"] = 1
        return original(self, op_type, *inputs, **attributes)

    monkeypatch.setattr(GraphBuilder, "op", broken)
    monkeypatch.setattr(quality, "_STEP_TOLERANCE", 0.0)
    fails_cleanly(
        checkpoint, tmp_path / "out", VerificationError, "disagrees with itself", precision="fp32", verify=True
    )


def test_verification_is_skipped_with_a_word_when_memory_is_short(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_graph, "available_memory", lambda: 1000)
    package = edgelm.export(checkpoint, tmp_path / "out")
    assert "skipped: the float graph needs" in package.manifest.quality["skipped"]
