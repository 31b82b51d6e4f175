"""The programs for CUDA, as far as a machine without one can tell: every kernel exists, and in 16 bits they compute what they should."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import edgelm
from edgelm import signature
from edgelm.loading import computing
from edgelm.providers import PROVIDERS, Provider
from edgelm.session import Program
from edgelm_export.assemble import Plan, assemble
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.model import understand
from edgelm_export.quantize.recipe import preset
from tests.architectures.encoder_goldens import golden_answers, golden_batch, golden_classes
from tests.architectures.encoder_goldens import golden_checkpoint as encoder_checkpoint
from tests.architectures.encoding import outputs
from tests.architectures.running import distance
from tests.architectures.seq2seq_goldens import golden_checkpoint as seq2seq_checkpoint
from tests.architectures.seq2seq_goldens import recorded
from tests.golden.cases import golden_cases
from tests.golden.encoder_cases import encoder_golden_cases
from tests.golden.seq2seq_cases import seq2seq_golden_cases
from tests.gpu.kernel_rules import kernels, refusals

GOLDENS = Path(__file__).parents[1] / "golden"
FORMS = {dtype: PROVIDERS["cuda"].with_activations(dtype) for dtype in ("fp16", "bf16")}
FLOATS: dict[ir.DataType | None, str] = {
    ir.DataType.FLOAT: "f32",
    ir.DataType.FLOAT16: "f16",
    ir.DataType.BFLOAT16: "bf16",
}

# Two layers of random weights in 16 bits. Where experts score alike, a rounded router takes the other one: such cases have the
# median of their positions compared.
TOLERANCE = 2e-2

# Operators that are made of others where a provider has no kernel, and those that ONNX Runtime computes when it loads a graph.
EXPANDED = {"CastLike"}


@pytest.mark.parametrize("dtype", FORMS)
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("case", sorted(golden_cases()))
def test_decoders_use_kernels_that_cuda_has(case: str, precision: str, dtype: str) -> None:
    found = list(programs(GOLDENS / case, precision, FORMS[dtype]))
    assert lacking(found) == []
    assert refusals(found) == []


@pytest.mark.parametrize("dtype", FORMS)
@pytest.mark.parametrize("case", sorted(encoder_golden_cases()))
def test_encoders_use_kernels_that_cuda_has(case: str, dtype: str, tmp_path: Path) -> None:
    for name in golden_classes(case):
        source = encoder_checkpoint(case, name, tmp_path / name)
        found = list(programs(source, "int8", FORMS[dtype]))
        assert lacking(found) == []
        assert refusals(found) == []


@pytest.mark.parametrize("dtype", FORMS)
@pytest.mark.parametrize("case", sorted(seq2seq_golden_cases()))
def test_encoder_decoders_use_kernels_that_cuda_has(case: str, dtype: str, tmp_path: Path) -> None:
    found = list(programs(seq2seq_checkpoint(case, tmp_path / "source"), "int8", FORMS[dtype]))
    assert lacking(found) == []
    assert refusals(found) == []


def test_a_kernel_that_is_missing_is_found() -> None:
    # CUDA's fused attention has no float32: the form for the CPU would land there, node by node.
    found = lacking(programs(GOLDENS / "llama", "fp32", PROVIDERS["cpu"]))
    assert {name for name, _ in found} == {"GroupQueryAttention"}


@pytest.mark.parametrize(
    ("op", "changed", "reason"),
    [
        ("GroupQueryAttention", {"causal": 0, "local_window_size": 9}, "local_window_size must be -1 when causal is 0"),
        ("GroupQueryAttention", {"kv_num_heads": 3}, "num_heads % kv_num_heads == 0"),
        ("GroupQueryAttention", {"windows": 9}, "has no attribute windows"),
        ("GroupQueryAttention", {"softcap": 2}, "attribute softcap is no float"),
        ("MatMulNBits", {"block_size": 24}, "block_size must be a power of 2, and >= 16"),
        ("MatMulNBits", {"weight_prepacked": 1}, "weight_prepacked must be 0"),
        ("GatherBlockQuantized", {"quantize_axis": 0}, "quantize_axis to be the last axis"),
    ],
)
def test_an_attribute_that_a_kernel_refuses_is_found(op: str, changed: dict[str, int], reason: str) -> None:
    found = list(programs(GOLDENS / "llama", "int4", FORMS["fp16"]))
    node = next(node for model in found for node in model.graph if node.op_type == op)
    for name, value in changed.items():
        node.attributes[name] = ir.AttrInt64(name, value)
    [(refused, why)] = refusals(found)
    assert (refused, reason in why) == (op, True), why


@pytest.mark.parametrize("case", sorted(golden_cases()))
def test_decoders_in_float16_are_close(case: str, tmp_path: Path) -> None:
    edgelm.export(GOLDENS / case, tmp_path / "out", precision="fp32", device="cuda", verify=False)
    model = edgelm.load(tmp_path / "out", device="cpu", threads=1)
    assert model.package.manifest.kv_cache.dtype == "float16"
    with np.load(GOLDENS / case / "expected.npz", allow_pickle=False) as expected:
        found, wanted = model.logits(expected["input_ids"].tolist()), expected["logits"]
    errors = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    assert (np.median(errors) if "moe" in case else errors.max()) < TOLERANCE


@pytest.mark.parametrize("case", sorted(encoder_golden_cases()))
def test_encoders_in_float16_are_close(case: str, tmp_path: Path) -> None:
    name = next(iter(golden_classes(case)))
    source = encoder_checkpoint(case, name, tmp_path / "source")
    package = edgelm.export(source, tmp_path / "out", precision="fp32", device="cuda", verify=False)
    program = Program(package.program("encoder"), computing(package, PROVIDERS["cpu"]), threads=1)
    batch, wanted = golden_batch(case), golden_answers(case, name)[signature.LAST_HIDDEN_STATE]
    found = outputs(program.session, batch)[signature.LAST_HIDDEN_STATE]
    real = batch.mask.astype(bool)
    assert 1e-5 < distance(found[real], wanted[real]) < TOLERANCE


@pytest.mark.parametrize("case", sorted(seq2seq_golden_cases()))
def test_encoder_decoders_in_float16_are_close(case: str, tmp_path: Path) -> None:
    source = seq2seq_checkpoint(case, tmp_path / "source")
    edgelm.export(source, tmp_path / "out", precision="fp32", device="cuda", verify=False)
    model = edgelm.load(tmp_path / "out", device="cpu", threads=1)
    known = recorded(case)
    ids = known.batch.ids[0][known.batch.mask[0].astype(bool)].tolist()
    targets = known.targets[0].tolist()
    assert distance(model.logits(ids, targets), known.logits[0]) < TOLERANCE


def programs(source: Path, precision: str, provider: Provider) -> Iterable[ir.Model]:
    """The programs of a checkpoint, built and not written."""
    model = understand(open_checkpoint(source))
    recipe = preset(precision, model.config.num_hidden_layers, family=model.family).without_block_sums()
    return assemble(model, recipe, [provider], lambda _: Plan()).forms[0].programs.values()


def lacking(models: Iterable[ir.Model]) -> list[tuple[str, set[str]]]:
    """Operators with float types that no kernel takes together."""
    found: list[tuple[str, set[str]]] = []
    for model in models:
        types = types_of(model)
        for node in model.graph:
            names = {
                FLOATS[kind] for value in node.inputs if value is not None and (kind := types.get(value)) in FLOATS
            }
            known = kernels().get((node.domain, node.op_type), [])
            if node.op_type not in EXPANDED and not any(names <= taken for taken in known):
                found.append((node.op_type, names))
    return found


def types_of(model: ir.Model) -> dict[ir.Value | None, ir.DataType | None]:
    """The element type of every value: that of a node's first input, but for few operators."""
    types: dict[ir.Value | None, ir.DataType | None] = {
        value: value.dtype for value in (*model.graph.inputs, *model.graph.initializers.values())
    }
    for node in model.graph:
        first = next((types[value] for value in node.inputs if value is not None), None)
        for value in node.outputs:
            types[value] = first
        out = node.outputs[0]
        if node.op_type == "Cast":
            types[out] = ir.DataType(node.attributes["to"].as_int())
        elif node.op_type == "Shape":
            types[out] = ir.DataType.INT64
        elif node.op_type == "CastLike":
            types[out] = types[node.inputs[1]]
        elif node.op_type in ("Where", "GatherBlockQuantized"):
            types[out] = types[node.inputs[1 if node.op_type == "Where" else 2]]
        elif node.op_type in ("Equal", "Not", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
            types[out] = ir.DataType.BOOL
        elif node.op_type == "TopK":
            types[node.outputs[1]] = ir.DataType.INT64
    return types
