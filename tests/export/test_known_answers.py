"""Probes of fused operators: small, quick, satisfied by this ONNX Runtime, and refused where the answer is another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgelm import known_answers as known_answers_at_run_time
from edgelm.errors import ManifestError, ProviderError
from edgelm.known_answers import ERROR, NOTHING, check_operators
from edgelm.package import Manifest, Package, sha256
from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm_export.assemble import Plan
from edgelm_export.known_answers import KnownAnswer, known_answers
from tests.export.test_moe import ROUTINGS, build, random_tensors

CPU = PROVIDERS["cpu"]


def probe_of(routing: str, form: str) -> KnownAnswer:
    m = replace(ROUTINGS[routing], moe_intermediate_size=128)
    [probe] = known_answers([build((1, 1, 256), m, random_tensors(m, 256), Plan(), form)])
    return probe


def package(folder: Path, probes: Mapping[str, KnownAnswer]) -> Package:
    """A package of nothing but probes."""
    for name, probe in probes.items():
        (folder / name).write_bytes(probe.graph)
    files = {name: {"sha256": sha256(folder / name), "size": len(probe.graph)} for name, probe in probes.items()}
    listed = {name: {"operator": probe.operator, "tolerance": probe.tolerance} for name, probe in probes.items()}
    nothing: dict[str, Any] = {}
    manifest = Manifest(
        family="test", task="", architecture="", programs={}, cache=None, context_length=1, vocab_size=1, parameters=1,
        device="cpu", precision="", recipe=nothing, source=nothing, files=files, generation=nothing, quality=nothing,
        versions={}, probes=listed,
    )  # fmt: skip
    manifest.save(folder)
    return Package(folder, manifest)


def error_of(folder: Path, graph: bytes) -> float:
    (folder / "p.onnx").write_bytes(graph)
    return float(Program(folder / "p.onnx", CPU).run({NOTHING: np.zeros((), np.float32)}, [ERROR])[0])


@pytest.mark.parametrize("routing", ["softmax, normalized", "softmax", "biases and clamps"])
@pytest.mark.parametrize(
    "form", ["float32", "float16", "int4-b16", "int4-b128-asym", "int4-b32-affine", "int8-b32", "int8-b128"]
)
def test_this_onnx_runtime_knows_the_answers(tmp_path: Path, routing: str, form: str) -> None:
    probe = probe_of(routing, form)
    check_operators(package(tmp_path, {"probe-0.onnx": probe}), CPU)
    assert len(probe.graph) < 400_000


def changed(graph: bytes, attribute: str = "", value: float = 0, tensor: str = "") -> bytes:
    """The probe with another attribute, or a tensor's alternating rows apart: what another meaning would compute."""
    model = ir.from_proto(onnx.load_from_string(graph))
    node = next(node for node in model.graph if node.domain)
    if attribute:
        node.attributes.add(
            ir.AttrFloat32(attribute, value) if isinstance(value, float) else ir.AttrInt64(attribute, value)
        )
    if tensor:
        found = model.graph.initializers[tensor]
        assert found.const_value is not None
        values = found.const_value.numpy()
        found.const_value = ir.tensor(np.concatenate([values[:, 0::2], values[:, 1::2]], axis=1), name=tensor)
    return ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize(
    ("routing", "attribute", "value"),
    [
        ("softmax", "normalize_routing_weights", 1),
        ("sigmoid, normalized, scaled", "normalize_routing_weights", 0),
        ("softmax", "activation_beta", 1.0),
        ("biases and clamps", "activation_alpha", 1.0),
        ("biases and clamps", "swiglu_limit", 100.0),
    ],
)
def test_another_meaning_is_far_beyond_the_tolerance(
    tmp_path: Path, routing: str, attribute: str, value: float
) -> None:
    probe = probe_of(routing, "int4-b32")
    assert error_of(tmp_path, probe.graph) < probe.tolerance / 2
    assert error_of(tmp_path, changed(probe.graph, attribute, value)) > probe.tolerance * 2


@pytest.mark.parametrize("form", ["float32", "int4-b32"])
def test_gate_and_up_in_another_order_are_far_beyond_the_tolerance(tmp_path: Path, form: str) -> None:
    probe = probe_of("softmax", form)
    assert error_of(tmp_path, changed(probe.graph, tensor="input_2")) > probe.tolerance * 2


def test_an_onnx_runtime_that_computes_something_else_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = package(tmp_path, {"probe-0.onnx": probe_of("softmax", "int4-b64")})
    monkeypatch.setattr(Program, "run", lambda *_: [np.array(0.61, np.float32)])
    with pytest.raises(
        ProviderError, match=r"ONNX Runtime [\d.]+ computes com\.microsoft QMoE otherwise .*off by 0\.61, 0\.05"
    ):
        check_operators(made, CPU)


@pytest.fixture(autouse=True)
def unprobed() -> None:
    """What other tests have probed in this process is forgotten."""
    known_answers_at_run_time._error.cache_clear()


def test_nan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = package(tmp_path, {"probe-0.onnx": probe_of("softmax", "int4-b16-asym")})
    monkeypatch.setattr(Program, "run", lambda *_: [np.array(np.nan, np.float32)])
    with pytest.raises(ProviderError, match="off by nan"):
        check_operators(made, CPU)


def test_a_probe_runs_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = package(tmp_path, {"probe-0.onnx": probe_of("softmax", "int8-b64")})
    check_operators(made, CPU)
    monkeypatch.setattr(Program, "__init__", lambda *_: pytest.fail("loaded again"))
    check_operators(made, CPU)


def test_equal_settings_share_a_probe_and_others_have_their_own() -> None:
    m = replace(ROUTINGS["softmax"], moe_intermediate_size=128)
    graphs = [
        build((1, 1, 256), m, random_tensors(m, 256), Plan(), form) for form in ("int4-b32", "int4-b32", "int8-b32")
    ]
    assert [probe.operator for probe in known_answers(graphs)] == ["com.microsoft QMoE"] * 2


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({"probe-1.onnx": {"operator": "x", "tolerance": 0.1}}, "probe-1.onnx is not among"),
        ({"probe-0.onnx": {"operator": "x"}}, "tolerance"),
        ({"probe-0.onnx": {"operator": "x", "tolerance": "1"}}, "not usable"),
    ],
)
def test_a_manifest_with_unusable_probes_is_refused(tmp_path: Path, probes: Any, message: str) -> None:
    package(tmp_path, {"probe-0.onnx": probe_of("softmax", "int4-b32")})
    values = json.loads((tmp_path / "edgelm.json").read_text())
    (tmp_path / "edgelm.json").write_text(json.dumps({**values, "probes": probes}))
    with pytest.raises(ManifestError, match=message):
        Package.open(tmp_path)
