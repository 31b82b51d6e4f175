"""Packages whose cache holds 8-bit integers: the scales, what records them, and who is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgelm
from edgelm.cli.facts import package_facts
from edgelm.cli.inspect import describe
from edgelm.errors import InvalidOption, ProviderError
from edgelm.package import Package
from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm.verification import verify_package
from edgelm_export.float_graph import FloatGraph
from edgelm_export.quantize.cache_scales import measured_scales, scales
from tests.architectures.encoder_goldens import golden_checkpoint as encoder_checkpoint
from tests.architectures.encoder_goldens import golden_classes
from tests.architectures.running import distance, export_and_load
from tests.architectures.seq2seq_goldens import golden_checkpoint as seq2seq_checkpoint
from tests.export.adapters import adapt, float_tensors

GOLDENS = Path(__file__).parents[1] / "golden"
LLAMA = GOLDENS / "llama"


def stored(package: Package) -> dict[str, Any]:
    """The scales in a package, by the input of their buffer."""
    graph = onnx.load(package.program("decoder")).graph
    found = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name.endswith(".scale")}
    return {name.removesuffix(".scale"): array for name, array in found.items()}


def test_scales_leave_a_tenth_of_room_and_are_short_numbers() -> None:
    peaks = np.array([0.0, 1e-3, 1.0, 127 / 1.1, 50.0], np.float32)
    found = scales(peaks)
    assert found[0] == 1
    assert np.all(found[1:] * 127 >= peaks[1:] * np.float32(1.1) * (1 - 1e-6))
    assert np.all(found[1:] * 127 <= peaks[1:] * 1.1 * (1 + 2**-7))
    mantissas = np.frexp(found.astype(np.float64))[0] * 2**8
    np.testing.assert_array_equal(mantissas, np.rint(mantissas))


@pytest.mark.parametrize("case", ["llama", "gptj", "phi3-partial", "gpt2"])
def test_scales_cover_keys_wherever_they_turn_and_values_by_channel(case: str, tmp_path: Path) -> None:
    """Against keys and values that the float package leaves in its cache: halves turn into each other, neighbours, a part, none."""
    model = export_and_load(GOLDENS / case, tmp_path / "float")
    cache, texts = model.package.manifest.kv_cache, [[5, 9, 70, 33, 21, 6], [40, 41]]
    ropes: list[Any] = _ropes(GOLDENS / case)
    program = Program(model.package.program("decoder"), PROVIDERS["cpu"])
    found = measured_scales(program, cache, ropes, texts)
    for i, rope in enumerate(ropes):
        keys, values = zip(*(_held(model, ids, i) for ids in texts), strict=True)
        np.testing.assert_array_equal(
            found[f"past_key_values.{i}.value"], scales(np.abs(np.concatenate(values, 1)).max(1))
        )
        joined = np.concatenate(keys, 1)
        size, neighbours = (0, False) if rope is None else (rope.rotary_dim or joined.shape[-1], rope.interleaved)
        expected = np.abs(joined).max(1)
        for channel in range(size):
            other = channel ^ 1 if neighbours else (channel + size // 2) % size
            expected[:, channel] = np.hypot(joined[..., channel], joined[..., other]).max(1)
        np.testing.assert_allclose(found[f"past_key_values.{i}.key"], scales(expected), rtol=2**-7)


def _held(model: Any, ids: list[int], layer: int) -> tuple[Any, Any]:
    decoder = model.decoder(1)
    decoder.prefill(0, ids)
    held = decoder.cache.held(0)
    return held[2 * layer].copy(), held[2 * layer + 1].copy()


def _ropes(source: Path) -> Any:
    from edgelm_export.checkpoint import open_checkpoint
    from edgelm_export.model import understand

    return understand(open_checkpoint(source)).config.ropes


@pytest.mark.parametrize("precision", ["fp32", "int4", "int8"])
def test_the_manifest_records_it_and_the_card_measures_it(precision: str, tmp_path: Path) -> None:
    plain = edgelm.export(LLAMA, tmp_path / "plain", precision=precision)
    package = edgelm.export(LLAMA, tmp_path / "out", precision=precision, kv_cache="int8")
    m = package.manifest
    assert (m.kv_cache.dtype, m.activations, m.recipe["kv_cache"]) == ("int8", "float32", "int8")
    assert "kv_cache" not in plain.manifest.recipe
    for part in ("prefill", "decode"):
        assert m.quality[part]["mean_kld"] != plain.manifest.quality[part]["mean_kld"]
        assert m.quality[part]["mean_kld"] < plain.manifest.quality[part]["mean_kld"] + 0.05
    assert m.quality["prefill"]["mean_kld"] > 1e-6
    assert m.recorded_run["token_ids"]
    assert stored(package).keys() == {f"past_key_values.{i}.{kind}" for i in range(2) for kind in ("key", "value")}
    attention = [probe for name, probe in m.probes.items() if name.startswith("GroupQueryAttention")]
    assert [probe["tolerance"] for probe in attention] == [1e-4] * 2  # a step over integers, a prompt over floats
    facts = package_facts(package)
    assert 4 * facts["cache_bytes_per_1000_tokens"] == package_facts(plain)["cache_bytes_per_1000_tokens"]
    assert "kv_cache int8" in describe(facts)


def test_edgelm_verify_finds_nothing_wrong(tmp_path: Path) -> None:
    package = edgelm.export(LLAMA, tmp_path / "out", precision="int4", kv_cache="int8")
    assert all(check.ok for check in verify_package(package.path, "cpu"))


def test_a_recipe_file_says_it_too(tmp_path: Path) -> None:
    first = edgelm.export(
        LLAMA, tmp_path / "a", precision="int4", kv_cache="int8", verify=False, write_recipe=tmp_path / "r.toml"
    )
    again = edgelm.export(LLAMA, tmp_path / "b", recipe=tmp_path / "r.toml", verify=False)
    assert again.manifest.recipe == first.manifest.recipe
    assert again.manifest.files == first.manifest.files
    (tmp_path / "own.toml").write_text('precision = "fp32"\nkv_cache = 8\n')
    with pytest.raises(InvalidOption, match="own.toml: 'kv_cache' must be a text, as in kv_cache = \"int8\""):
        edgelm.export(LLAMA, tmp_path / "c", recipe=tmp_path / "own.toml")


def test_budgets_count_what_it_costs(tmp_path: Path) -> None:
    package = edgelm.export(LLAMA, tmp_path / "out", max_kld=0.2, kv_cache="int8")
    assert package.manifest.quality["prefill"]["mean_kld"] <= 0.2
    assert (package.manifest.kv_cache.dtype, package.manifest.recipe["kv_cache"]) == ("int8", "int8")
    assert stored(package)


def test_adapters_keep_the_dtype_of_activations(checkpoint: Path, tmp_path: Path) -> None:
    adapt(float_tensors(checkpoint), tmp_path / "one", r".*\.(q_proj|down_proj)", seed=1)
    options: dict[str, Any] = {"precision": "fp32", "verify": False, "keep_adapter": {"x": tmp_path / "one"}}
    models = {
        kv_cache: edgelm.load(edgelm.export(checkpoint, tmp_path / str(kv_cache), kv_cache=kv_cache, **options).path)
        for kv_cache in (None, "int8")
    }
    ids = list(range(5, 40))
    with_adapter = [model.logits(ids, adapter="x") for model in models.values()]
    without = [model.logits(ids) for model in models.values()]
    assert distance(with_adapter[1], with_adapter[0]) < 0.1
    assert distance(with_adapter[1] - without[1], with_adapter[0] - without[0]) < 0.2
    assert all(check.ok for check in verify_package(models["int8"].package.path, "cpu"))


REFUSALS = {
    "unknown": (
        lambda _: LLAMA,
        {"kv_cache": "int4"},
        r"KV cache 'int4' is not known \(known: int8\); leave it out for the dtype of activations",
    ),
    "cuda": (
        lambda _: LLAMA,
        {"device": "cpu,cuda"},
        r"a KV cache of int8 is not for packages that run on cuda; .* or export with --device cpu",
    ),
    "an encoder": (
        lambda folder: encoder_checkpoint("bert", next(iter(golden_classes("bert"))), folder),
        {},
        "a KV cache of int8 is for decoders, and this is exported as .*; leave --kv-cache out",
    ),
    "an encoder-decoder": (
        lambda folder: seq2seq_checkpoint("t5", folder),
        {},
        "a KV cache of int8 is for decoders, and this is exported as text-to-text",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_who_cannot_have_it_is_refused_at_once(case: str, tmp_path: Path) -> None:
    source, options, message = REFUSALS[case]
    with pytest.raises(InvalidOption, match=message):
        edgelm.export(source(tmp_path / "source"), tmp_path / "out", **{"kv_cache": "int8", **options})
    assert not (tmp_path / "out").exists()


def test_without_room_for_the_float_graph_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FloatGraph, "lacking", lambda *_: "9 MB of memory")
    with pytest.raises(
        ProviderError, match="scales of a KV cache of int8 .* needs 9 MB of memory; leave --kv-cache out"
    ):
        edgelm.export(LLAMA, tmp_path / "out", kv_cache="int8")
    assert not list(tmp_path.iterdir())


def test_a_manifest_may_name_no_other_cache(tmp_path: Path) -> None:
    package = edgelm.export(LLAMA, tmp_path / "out", precision="fp32", verify=False, kv_cache="int8")
    entry = json.loads((package.path / "edgelm.json").read_text())["cache"]
    assert entry["dtype"] == "int8"
    with pytest.raises(ValueError, match="unknown dtype 'int4'"):
        type(package.manifest.kv_cache).from_manifest({**entry, "dtype": "int4"})
