"""Probes of fused operators: small, quick, satisfied by this ONNX Runtime, and refused where the answer is another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgelm
from edgelm import home
from edgelm.doctor import SHIPPED
from edgelm.errors import ManifestError, ProviderError
from edgelm.known_answers import NOTHING, answers, check_operators
from edgelm.manifest import PROBES, Manifest, sealed
from edgelm.package import Package, sha256
from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm_export.assemble import Plan
from edgelm_export.known_answers import PROBED, KnownAnswers, known_answers
from edgelm_export.known_answers.graph import problem_graph
from edgelm_export.known_answers.problems import Setting
from edgelm_export.known_answers.shipped import SETTINGS, as_json, program_of, shipped_answers
from tests.export.test_moe import ROUTINGS, build, random_tensors

CPU = PROVIDERS["cpu"]


def experts_of(routing: str, form: str) -> KnownAnswers:
    """The known answer of the experts alone."""
    m = replace(ROUTINGS[routing], moe_intermediate_size=128)
    program = build((1, 1, 256), m, random_tensors(m, 256), Plan(), form)
    for node in program.graph:
        if node.op_type in ("MoE", "QMoE"):
            return known_answers([program_of(Setting.of(node))])
    raise AssertionError("no experts")


def package(folder: Path, known: KnownAnswers) -> Package:
    """A package of nothing but probes."""
    (folder / PROBES).write_bytes(known.graph)
    files = {PROBES: {"sha256": sha256(folder / PROBES), "size": len(known.graph)}}
    nothing: dict[str, Any] = {}
    manifest = Manifest(
        family="test", task="", architecture="", programs={}, cache=None, context_length=1, vocab_size=1, parameters=1,
        device="cpu", precision="", recipe=nothing, source=nothing, files=files, generation=nothing, quality=nothing,
        versions={}, probes=known.probes,
    )  # fmt: skip
    manifest.save(folder)
    return Package(folder, manifest)


def error_of(folder: Path, graph: bytes) -> float:
    (folder / "p.onnx").write_bytes(graph)
    program = Program(folder / "p.onnx", CPU)
    [error] = program.run({NOTHING: np.zeros((), np.float32)}, program.outputs)
    return float(error)


def tolerance(known: KnownAnswers) -> float:
    [probe] = known.probes.values()
    return probe["tolerance"]


@pytest.mark.parametrize("routing", ["softmax, normalized", "softmax", "biases and clamps"])
@pytest.mark.parametrize(
    "form", ["float32", "float16", "int4-b16", "int4-b128-asym", "int4-b32-affine", "int8-b32", "int8-b128"]
)
def test_this_onnx_runtime_knows_the_answers(tmp_path: Path, routing: str, form: str) -> None:
    probe = experts_of(routing, form)
    check_operators(package(tmp_path, probe), CPU)
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
    probe = experts_of(routing, "int4-b32")
    assert error_of(tmp_path, probe.graph) < tolerance(probe) / 2
    assert error_of(tmp_path, changed(probe.graph, attribute, value)) > tolerance(probe) * 2


@pytest.mark.parametrize("form", ["float32", "int4-b32"])
def test_gate_and_up_in_another_order_are_far_beyond_the_tolerance(tmp_path: Path, form: str) -> None:
    probe = experts_of("softmax", form)
    [name] = probe.probes
    assert error_of(tmp_path, changed(probe.graph, tensor=f"{name}.0.input_2")) > tolerance(probe) * 2


@pytest.fixture(autouse=True)
def unprobed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have found right is forgotten."""
    monkeypatch.setattr(home, "answers_folder", lambda: tmp_path / "answers")


@pytest.mark.parametrize(("error", "said"), [(0.61, "0.61"), (np.nan, "nan")])
def test_an_onnx_runtime_that_computes_something_else_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float, said: str
) -> None:
    made = package(tmp_path, experts_of("softmax", "int4-b64"))
    monkeypatch.setattr(Program, "run", lambda *_: [np.array(error, np.float32)])
    with pytest.raises(
        ProviderError, match=rf"ONNX Runtime [\d.]+ computes com\.microsoft QMoE otherwise .*off by {said}, 0\.05"
    ):
        check_operators(made, CPU)


# An attribute with another value for settings that have one: another meaning.
OTHERS: dict[str, dict[str, Any]] = {
    "floats": {"alpha": 1.0},
    "floats turned": {"alpha": 0.7},
    "cache": {"scale": 0.5},
    "rotary": {"rotary_interleaved": 1},
    "interleaved": {"do_rotary": 0},
    "window": {"local_window_size": 4},
    "cache of integers": {"rotary_interleaved": 1},
    "soft cap": {"softcap": 2.0},
    "bias and sinks": {"scale": 0.5},
    "both ways": {"causal": 1},
    "latent cache": {"scale": 0.3},
    "cross": {"scale": 0.5},
    "whole text": {"scale": 0.5},
    "positions": {"interleaved": 1},
    "half of the positions": {"interleaved": 0},
    "root mean square": {"epsilon": 0.2},
    "layer": {"epsilon": 0.2},
    "experts": {"activation_beta": 1.0},
    "experts in blocks": {"activation_alpha": 1.7},
}
BLOCKS = SETTINGS["rounded blocks"]


# What the CPU has kernels for in half precision.
@pytest.mark.parametrize(
    "name", ["blocks", "bytes in blocks", "cache", "rotary", "positions", "root mean square", "layer"]
)
def test_half_precision_is_tried_in_half_precision(tmp_path: Path, name: str) -> None:
    known = known_answers([program_of(SETTINGS[name])], "float16")
    (tmp_path / PROBES).write_bytes(known.graph)
    [answer] = answers(tmp_path / PROBES, known.probes, CPU)
    assert 1e-5 < answer.error < answer.tolerance / 2
    assert answer.tolerance >= 0.01


def test_every_operator_with_a_problem_is_shipped() -> None:
    assert {(setting.domain, setting.op_type) for setting in SETTINGS.values()} == set(PROBED)


def test_what_is_shipped_is_current() -> None:
    """If not: python -m edgelm_export.known_answers.shipped."""
    folder, made = Path(edgelm.__file__).parent / SHIPPED, shipped_answers()
    assert (folder / PROBES).read_bytes() == made.graph
    assert (folder / "probes.json").read_text(encoding="utf-8") == as_json(made)
    assert len(made.probes) == len(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_this_onnx_runtime_knows_the_answer_in_a_setting(tmp_path: Path, name: str) -> None:
    known = known_answers([program_of(SETTINGS[name])])
    (tmp_path / PROBES).write_bytes(known.graph)
    [answer] = answers(tmp_path / PROBES, known.probes, CPU)
    assert answer.error < answer.tolerance / 3
    assert len(known.graph) < 120_000


@pytest.mark.parametrize("name", OTHERS)
def test_an_operator_with_another_meaning_is_far_off(tmp_path: Path, name: str) -> None:
    """The same inputs and answers, but the operator computes with another attribute."""
    setting, other = SETTINGS[name], OTHERS[name]
    problem = PROBED[setting.domain, setting.op_type](setting)
    planted = replace(problem, attributes={**problem.attributes, **other})
    assert error_of(tmp_path, problem_graph({"planted": (setting, planted)})) > 2 * problem.tolerance


@pytest.mark.parametrize("nibbles", ["swapped", "signed"])
def test_another_layout_of_blocks_is_far_off(tmp_path: Path, nibbles: str) -> None:
    setting = SETTINGS["rounded blocks with zero points and bias"]
    problem = PROBED[setting.domain, setting.op_type](setting)

    def other(codes: Any) -> Any:
        return (codes << 4 | codes >> 4) if nibbles == "swapped" else codes ^ 0x88

    cases = [
        replace(case, inputs=[other(x) if i == 1 else x for i, x in enumerate(case.inputs)]) for case in problem.cases
    ]
    assert error_of(tmp_path, problem_graph({"x": (setting, replace(problem, cases=cases))})) > 4 * problem.tolerance


def test_sizes_do_not_matter_and_settings_do() -> None:
    one, two = (replace(BLOCKS, attributes={**BLOCKS.attributes, "N": n}) for n in (5, 7))
    other = replace(BLOCKS, attributes={**BLOCKS.attributes, "block_size": 64})
    known = known_answers(map(program_of, (one, two, other, one)))
    assert list(known.probes) == ["MatMulNBits.0", "MatMulNBits.1"]


def test_a_program_without_such_operators_has_no_answers() -> None:
    assert known_answers([program_of(Setting("Relu", "", {}, (True,), 1))]).probes == {}


def listed(**values: Any) -> dict[str, Any]:
    return {"QMoE.0": {"operator": "x", "tolerance": 0.1} | values}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probes": {"QMoE.0": {"operator": "x"}}}, "'probes' is not usable: 'tolerance'"),
        ({"probes": listed(tolerance="1")}, "not usable"),
        ({"probes": listed(), "files": {}}, "probes.onnx is not among the package's files"),
    ],
)
def test_a_manifest_with_unusable_probes_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    package(tmp_path, experts_of("softmax", "int4-b32"))
    values = json.loads((tmp_path / "edgelm.json").read_text())
    (tmp_path / "edgelm.json").write_text(sealed({**values, **change}))
    with pytest.raises(ManifestError, match=message):
        Package.open(tmp_path)


def test_a_probe_that_the_graph_lacks_is_told(tmp_path: Path) -> None:
    known = experts_of("softmax", "int4-b32")
    made = package(tmp_path, replace(known, probes={**known.probes, "Other.3": {"operator": "x", "tolerance": 0.1}}))
    with pytest.raises(ManifestError, match=r"probes.onnx has no probe Other\.3; export the package again"):
        check_operators(made, CPU)
