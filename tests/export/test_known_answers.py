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

from edgelm import home
from edgelm.errors import ManifestError, ProviderError
from edgelm.known_answers import NOTHING, answers, check_operators
from edgelm.package import PROBES, Manifest, Package, sealed, sha256
from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm_export.assemble import Plan
from edgelm_export.graph import CONTRIB
from edgelm_export.known_answers import PROBED, KnownAnswers, known_answers
from edgelm_export.known_answers.graph import problem_graph
from edgelm_export.known_answers.problems import Setting
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


def program_of(setting: Setting) -> ir.Model:
    """A program of one node in that setting."""
    inputs = [ir.val(f"x{i}") if given else None for i, given in enumerate(setting.given)]
    node = ir.node(
        setting.op_type, inputs, dict(setting.attributes), domain=setting.domain, num_outputs=setting.outputs
    )
    return ir.Model(ir.Graph([], node.outputs, nodes=[node], opset_imports={"": 23, CONTRIB: 1}), ir_version=10)


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


# Settings of the other operators, as packages have them, and for each an attribute with another value: another meaning.
_GQA: dict[str, Any] = {"num_heads": 6, "kv_num_heads": 2, "causal": 1, "local_window_size": -1}
_PACKED, _CACHED = (True, False, False, True, True, True, True), (True,) * 7
_TURNED = (*_PACKED, True, True)
_BLOCKS: dict[str, Any] = {"K": 4096, "N": 999, "bits": 4, "block_size": 32, "accuracy_level": 0}
SETTINGS: dict[str, tuple[Setting, dict[str, Any]]] = {
    "blocks": (Setting("MatMulNBits", CONTRIB, _BLOCKS, (True,) * 3, 1), {}),
    "rounded blocks with zero points and bias": (
        Setting("MatMulNBits", CONTRIB, {**_BLOCKS, "accuracy_level": 4}, (True, True, True, True, False, True), 1),
        {},
    ),
    "bytes in blocks": (Setting("MatMulNBits", CONTRIB, {**_BLOCKS, "bits": 8, "block_size": 128}, (True,) * 4, 1), {}),
    "rows of a table": (
        Setting(
            "GatherBlockQuantized",
            CONTRIB,
            {"bits": 4, "block_size": 32, "gather_axis": 0, "quantize_axis": 1},
            (True,) * 4,
            1,
        ),
        {},
    ),
    "rounded input": (Setting("DynamicQuantizeMatMul", CONTRIB, {}, (True, True, True, False, True), 1), {}),
    "integers": (Setting("MatMulIntegerToFloat", CONTRIB, {}, (True,) * 5, 1), {}),
    "floats": (Setting("FusedMatMul", CONTRIB, {"transB": 1, "alpha": 0.5}, (True, True), 1), {"alpha": 1.0}),
    "floats turned": (Setting("FusedMatMul", CONTRIB, {"transA": 1}, (True, True), 1), {"alpha": 0.7}),
    "cache": (Setting("GroupQueryAttention", CONTRIB, _GQA, _CACHED, 3), {"scale": 0.5}),
    "rotary": (
        Setting("GroupQueryAttention", CONTRIB, {**_GQA, "do_rotary": 1, "rotary_interleaved": 0}, _TURNED, 3),
        {"rotary_interleaved": 1},
    ),
    "interleaved": (
        Setting("GroupQueryAttention", CONTRIB, {**_GQA, "do_rotary": 1, "rotary_interleaved": 1}, _TURNED, 3),
        {"do_rotary": 0},
    ),
    "window": (
        Setting("GroupQueryAttention", CONTRIB, {**_GQA, "local_window_size": 512}, _PACKED, 3),
        {"local_window_size": 4},
    ),
    "soft cap": (Setting("GroupQueryAttention", CONTRIB, {**_GQA, "softcap": 1.0}, _PACKED, 3), {"softcap": 2.0}),
    "bias and sinks": (
        Setting("GroupQueryAttention", CONTRIB, _GQA, (*_PACKED, False, False, False, True, True), 3),
        {"scale": 0.5},
    ),
    "both ways": (
        Setting("GroupQueryAttention", CONTRIB, {**_GQA, "causal": 0}, (True,) * 3 + (False, False, True, True), 3),
        {"causal": 1},
    ),
    "latent cache": (
        Setting("GroupQueryAttention", CONTRIB, {"num_heads": 8, "kv_num_heads": 1, "scale": 0.2}, _CACHED, 1),
        {"scale": 0.3},
    ),
    "cross": (
        Setting("MultiHeadAttention", CONTRIB, {"num_heads": 8}, (True, True, True, False, True), 1),
        {"scale": 0.5},
    ),
    "whole text": (Setting("Attention", "", {"q_num_heads": 6, "kv_num_heads": 2}, (True,) * 4, 1), {"scale": 0.5}),
    "positions": (
        Setting("RotaryEmbedding", CONTRIB, {"interleaved": 0, "num_heads": 9}, (True,) * 4, 1),
        {"interleaved": 1},
    ),
    "half of the positions": (
        Setting(
            "RotaryEmbedding",
            CONTRIB,
            {"interleaved": 1, "num_heads": 9, "rotary_embedding_dim": 64},
            (True,) * 4,
            1,
        ),
        {"interleaved": 0},
    ),
    "root mean square": (
        Setting("RMSNormalization", "", {"axis": -1, "epsilon": 0.1}, (True, True), 1),
        {"epsilon": 0.2},
    ),
    "layer": (Setting("LayerNormalization", "", {"axis": -1, "epsilon": 0.1}, (True,) * 3, 1), {"epsilon": 0.2}),
}


def test_every_operator_with_a_problem_is_tried() -> None:
    tried = {(setting.domain, setting.op_type) for setting, _ in SETTINGS.values()}
    assert tried | {(CONTRIB, "MoE"), (CONTRIB, "QMoE")} == set(PROBED)


@pytest.mark.parametrize("name", SETTINGS)
def test_this_onnx_runtime_knows_the_answer_in_a_setting(tmp_path: Path, name: str) -> None:
    known = known_answers([program_of(SETTINGS[name][0])])
    (tmp_path / PROBES).write_bytes(known.graph)
    [answer] = answers(tmp_path / PROBES, known.probes, CPU)
    assert answer.error < answer.tolerance / 4
    assert len(known.graph) < 120_000


@pytest.mark.parametrize("name", [name for name, (_, other) in SETTINGS.items() if other])
def test_an_operator_with_another_meaning_is_far_off(tmp_path: Path, name: str) -> None:
    """The same inputs and answers, but the operator computes with another attribute."""
    setting, other = SETTINGS[name]
    problem = PROBED[setting.domain, setting.op_type](setting)
    planted = replace(problem, attributes={**problem.attributes, **other})
    assert error_of(tmp_path, problem_graph({"planted": (setting, planted)})) > 2 * problem.tolerance


@pytest.mark.parametrize("nibbles", ["swapped", "signed"])
def test_another_layout_of_blocks_is_far_off(tmp_path: Path, nibbles: str) -> None:
    setting = SETTINGS["rounded blocks with zero points and bias"][0]
    problem = PROBED[setting.domain, setting.op_type](setting)

    def other(codes: Any) -> Any:
        return (codes << 4 | codes >> 4) if nibbles == "swapped" else codes ^ 0x88

    cases = [
        replace(case, inputs=[other(x) if i == 1 else x for i, x in enumerate(case.inputs)]) for case in problem.cases
    ]
    assert error_of(tmp_path, problem_graph({"x": (setting, replace(problem, cases=cases))})) > 4 * problem.tolerance


def test_sizes_do_not_matter_and_settings_do() -> None:
    one, two = (Setting("MatMulNBits", CONTRIB, {**_BLOCKS, "N": n}, (True,) * 3, 1) for n in (5, 7))
    other = Setting("MatMulNBits", CONTRIB, {**_BLOCKS, "block_size": 64}, (True,) * 3, 1)
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
