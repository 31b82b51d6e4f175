"""Adapters at export: merged, or kept apart, the package computes what plain arithmetic on the checkpoint's tensors gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgelm
from edgelm.errors import CheckpointError, EdgeLMError, InvalidOption, UnsupportedConfig, UnusedWeights, WrongShape
from tests.architectures.gguf_checkpoints import write_gguf
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config, rope_keys
from tests.architectures.running import FLOAT_TOLERANCE, distance
from tests.export.adapters import Tensors, adapt, factors, float_tensors, write_adapter
from tests.runtime.encoders import encoder_config, write_encoder

GOLDENS = Path(__file__).parents[1] / "golden"
LINEAR = r".*\.(q_proj|v_proj|gate_proj|down_proj)"
IDS = list(range(3, 40))

# The same sums in another order.
MERGED_TOLERANCE = 1e-5

# Modules by golden: joined, transposed, by head, by group, split by head and turned. The last: single experts, merged only.
FAMILIES = {
    "phi3": r".*\.(qkv_proj|gate_up_proj|o_proj)",
    "gpt2": r".*\.(c_attn|c_proj|c_fc)",
    "gpt_neox": r".*\.(query_key_value|dense)",
    "falcon": r".*\.(query_key_value|dense_h_to_4h)",
    "deepseek_v3": r".*\.self_attn\.(q_a_proj|kv_a_proj_with_mqa|q_b_proj|o_proj)|.*\.0\.mlp\.up_proj",
}
MERGED_ONLY = {
    "deepseek_v3": r".*\.(kv_b_proj|experts\.[01]\.down_proj)",
    "olmoe": r".*\.(experts\.[02]\.up_proj|q_proj)",
}


def _load(source: Path, out: Path, **options: Any) -> Any:
    edgelm.export(source, out, precision="fp32", verify=False, **options)
    return edgelm.load(out, threads=1)


def _rewritten(source: Path, tensors: Tensors, folder: Path) -> Path:
    """The checkpoint in `source` with these tensors."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*", "expected.npz"))
    return write_checkpoint_tensors(folder, tensors)


def write_checkpoint_tensors(folder: Path, tensors: Tensors) -> Path:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_and_kept_apart_are_the_merged_model(name: str, tmp_path: Path) -> None:
    source, tensors = GOLDENS / name, float_tensors(GOLDENS / name)
    merged = adapt(tensors, tmp_path / "adapter", FAMILIES[name], transposed=name == "gpt2")
    base = _load(_rewritten(source, tensors, tmp_path / "base"), tmp_path / "base-package").logits(IDS)
    expected = _load(_rewritten(source, merged, tmp_path / "merged"), tmp_path / "expected").logits(IDS)
    assert distance(expected, base) > 0.01
    found = _load(tmp_path / "base", tmp_path / "found", adapter=tmp_path / "adapter").logits(IDS)
    assert distance(found, expected) < MERGED_TOLERANCE
    apart = _load(tmp_path / "base", tmp_path / "apart", keep_adapter={"it": tmp_path / "adapter"})
    assert distance(apart.logits(IDS, adapter="it"), expected) < FLOAT_TOLERANCE
    assert np.array_equal(apart.logits(IDS), base)


@pytest.mark.parametrize("name", MERGED_ONLY)
def test_what_is_no_plain_projection_can_be_merged_only(name: str, tmp_path: Path) -> None:
    source, tensors = GOLDENS / name, float_tensors(GOLDENS / name)
    merged = adapt(tensors, tmp_path / "adapter", MERGED_ONLY[name])
    expected = _load(_rewritten(source, merged, tmp_path / "merged"), tmp_path / "expected").logits(IDS)
    base = _rewritten(source, tensors, tmp_path / "base")
    assert (
        distance(_load(base, tmp_path / "found", adapter=[tmp_path / "adapter"]).logits(IDS), expected)
        < MERGED_TOLERANCE
    )
    with pytest.raises(
        UnsupportedConfig, match=r"no projections of this model's decoder, .* merge it, .*: .*experts\.0"
    ):
        _load(base, tmp_path / "apart", keep_adapter={"it": tmp_path / "adapter"})


def test_several_adapters_add_up(checkpoint: Path, tmp_path: Path) -> None:
    first = adapt(float_tensors(checkpoint), tmp_path / "one", LINEAR, seed=1)
    both = adapt(first, tmp_path / "two", r".*\.(q|k|o)_proj", seed=2, rank=2)
    expected = _load(_rewritten(checkpoint, both, tmp_path / "merged"), tmp_path / "expected").logits(IDS)
    found = _load(checkpoint, tmp_path / "found", adapter=[tmp_path / "one", tmp_path / "two"])
    assert distance(found.logits(IDS), expected) < MERGED_TOLERANCE
    mixed = _load(checkpoint, tmp_path / "mixed", adapter=tmp_path / "one", keep_adapter={"two": tmp_path / "two"})
    assert distance(mixed.logits(IDS, adapter="two"), expected) < FLOAT_TOLERANCE
    entry = found.package.manifest.source["adapters"][1]
    assert entry["id"] == "two"
    assert sorted(entry["files"]) == ["adapter_config.json", "adapter_model.safetensors"]


def test_an_adapter_goes_onto_a_gguf_file_too(tmp_path: Path) -> None:
    config = base_config("llama", **rope_keys("default", 10000.0, "rope_theta"))
    tensors = random_tensors(config, 3)
    merged = adapt(tensors, tmp_path / "adapter", LINEAR)
    expected = _load(write_checkpoint(tmp_path / "hub", config, merged), tmp_path / "expected").logits(IDS)
    file = write_gguf(tmp_path / "base.gguf", config, tensors)
    assert distance(_load(file, tmp_path / "found", adapter=tmp_path / "adapter").logits(IDS), expected) < 1e-5
    apart = _load(file, tmp_path / "apart", keep_adapter={"it": tmp_path / "adapter"})
    assert distance(apart.logits(IDS, adapter="it"), expected) < FLOAT_TOLERANCE


def test_an_untied_head_is_a_projection_like_others(checkpoint: Path, tmp_path: Path) -> None:
    merged = adapt(float_tensors(checkpoint), tmp_path / "adapter", "lm_head")
    expected = _load(_rewritten(checkpoint, merged, tmp_path / "merged"), tmp_path / "expected").logits(IDS)
    found = _load(checkpoint, tmp_path / "found", keep_adapter={"head": tmp_path / "adapter"})
    assert distance(found.logits(IDS, adapter="head"), expected) < FLOAT_TOLERANCE


def test_an_adapter_of_the_model_without_its_head_is_understood(checkpoint: Path, tmp_path: Path) -> None:
    adapt(float_tensors(checkpoint), tmp_path / "full", LINEAR)
    expected = _load(checkpoint, tmp_path / "expected", adapter=tmp_path / "full").logits(IDS)
    bare = {name.removeprefix("model."): values for name, values in float_tensors(checkpoint).items()}
    adapt(bare, tmp_path / "bare", LINEAR)
    assert (
        distance(_load(checkpoint, tmp_path / "found", adapter=tmp_path / "bare").logits(IDS), expected)
        < MERGED_TOLERANCE
    )


def test_an_encoder_merges_and_keeps_nothing_apart(tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "base", encoder_config())
    merged = adapt(float_tensors(source), tmp_path / "adapter", r".*\.(query|value|dense)")
    texts = ["Anna lives in Berlin."]
    expected = _load(_rewritten(source, merged, tmp_path / "merged"), tmp_path / "expected").hidden_states(texts)[0]
    found = _load(source, tmp_path / "found", adapter=tmp_path / "adapter").hidden_states(texts)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(
        UnsupportedConfig, match="only a decoder keeps adapters apart, and this is exported as an encoder"
    ):
        _load(source, tmp_path / "apart", keep_adapter={"it": tmp_path / "adapter"})


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_weights_keep_float_adapters(precision: str, checkpoint: Path, tmp_path: Path) -> None:
    merged = adapt(float_tensors(checkpoint), tmp_path / "adapter", r".*\.0\..*(q_proj|down_proj)")
    base = _load(checkpoint, tmp_path / "base").logits(IDS)
    expected = _load(_rewritten(checkpoint, merged, tmp_path / "merged"), tmp_path / "expected").logits(IDS)
    edgelm.export(checkpoint, tmp_path / "found", precision=precision, keep_adapter=[f"it={tmp_path / 'adapter'}"])
    found = edgelm.load(tmp_path / "found", threads=1)
    rounding = distance(found.logits(IDS), base)
    assert distance(found.logits(IDS, adapter="it"), expected) < 2 * rounding < distance(expected, base)


def test_an_adapter_for_another_base_model_lists_what_differs(checkpoint: Path, tmp_path: Path) -> None:
    q, other = "model.layers.0.self_attn.q_proj", "model.layers.9.self_attn.q_proj"
    write_adapter(tmp_path / "wide", factors(q, (128, 64)) | factors("model.layers.1.mlp.up_proj", (80, 32)))
    with pytest.raises(WrongShape, match="adapter wide is for another base model, some/base by its config") as caught:
        _load(checkpoint, tmp_path / "out", adapter=tmp_path / "wide")
    assert f"{q} changes [128, 64], the model has [64, 64]" in str(caught.value)
    assert "model.layers.1.mlp.up_proj changes [80, 32], the model has [80, 64]" in str(caught.value)
    write_adapter(tmp_path / "deep", factors(q, (64, 64)) | factors(other, (64, 64)))
    with pytest.raises(
        UnusedWeights, match=rf"adapter deep changes modules that this model does not have, .*: {other}"
    ):
        _load(checkpoint, tmp_path / "out", adapter=tmp_path / "deep")
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_names_another_model_of_the_hub_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgelm_export import pipeline
    from edgelm_export.sources import Source

    adapt(float_tensors(checkpoint), tmp_path / "adapter", LINEAR)
    monkeypatch.setattr(pipeline, "resolve_source", lambda *_, **__: Source(checkpoint, "some/other"))
    with pytest.raises(CheckpointError, match="adapter adapter was trained for some/base, not for some/other"):
        _load(checkpoint, tmp_path / "out", adapter=tmp_path / "adapter")
    monkeypatch.setattr(pipeline, "resolve_source", lambda *_, **__: Source(checkpoint, "mirror/Base"))
    _load(checkpoint, tmp_path / "out", adapter=tmp_path / "adapter")


def test_damaged_factors_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    tensors = factors(module, (64, 64))
    next(iter(tensors.values()))[1, 1] = np.nan
    write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(CheckpointError, match=f"adapter adapter: {module} holds NaN or infinity"):
        _load(checkpoint, tmp_path / "out", adapter=tmp_path / "adapter")


@pytest.mark.parametrize("given", ["no-name", "=dir", "a b=dir", "../x=dir", ["a=1", "a=2"]])
def test_names_of_adapters_are_plain_and_stand_for_one(given: Any, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="a name is letters, digits"):
        _load(checkpoint, tmp_path / "out", keep_adapter=[given] if isinstance(given, str) else given)


def test_the_manifest_tells_of_adapters(checkpoint: Path, tmp_path: Path) -> None:
    adapt(float_tensors(checkpoint), tmp_path / "pirate-lora", r".*\.0\..*(q_proj|v_proj)")
    _load(checkpoint, tmp_path / "out", keep_adapter={"pirate": tmp_path / "pirate-lora"})
    entry = json.loads((tmp_path / "out" / "edgelm.json").read_text())["adapters"]["pirate"]
    assert (entry["id"], entry["file"], entry["ranks"]) == (
        "pirate-lora",
        "adapter-pirate.data",
        {"layers.0.qkv_proj": 8},
    )
    assert (tmp_path / "out" / "adapter-pirate.data").stat().st_size == 4 * 8 * (64 + 128)


def test_optimum_gets_no_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    from edgelm_export import pipeline

    adapt(float_tensors(checkpoint), tmp_path / "adapter", LINEAR)
    monkeypatch.setattr(pipeline, "is_handed_over", lambda _: True)
    with pytest.raises(
        EdgeLMError, match=r"this one goes through Optimum; merge the adapter first \(peft: merge_and_unload\)"
    ):
        _load(checkpoint, tmp_path / "out", adapter=tmp_path / "adapter")
