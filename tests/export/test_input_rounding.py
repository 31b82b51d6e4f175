"""Inputs of projections that must not be rounded to 8 bits: planted ones are found by measuring, and others are left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir
import pytest

import edgelm
from edgelm.package import Package
from edgelm_export import input_rounding
from edgelm_export.quantize.formats import find_format, with_float_input
from tests.export.adapters import float_tensors
from tests.export.builders import write_safetensors

LLAMA = Path(__file__).parents[1] / "golden" / "llama"
AT_FAULT = "layers.1.down_proj"


def planted(folder: Path, factor: float = 1000) -> Path:
    """The same function, but one column of one projection's input is a thousand times as wide, and its weights as much smaller."""
    shutil.copytree(LLAMA, folder)
    tensors = float_tensors(LLAMA)
    tensors["model.layers.1.mlp.up_proj.weight"][5] *= factor
    tensors["model.layers.1.mlp.down_proj.weight"][:, 5] /= factor
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def kld(package: Package) -> float:
    return package.manifest.quality["prefill"]["mean_kld"]


def levels(package: Package) -> dict[str, int]:
    """Accuracy levels by the name of the weight."""
    nodes = [node for node in ir.load(package.program("decoder")).graph if node.op_type == "MatMulNBits"]
    return {
        str(node.inputs[1]).split(".packed")[0].strip('%"'): node.attributes["accuracy_level"].as_int()
        for node in nodes
    }


@pytest.mark.parametrize(("precision", "form"), [("int8", "float16"), ("int4", "int4-b16-asym-level0")])
def test_a_planted_column_changes_one_format(precision: str, form: str, tmp_path: Path) -> None:
    source = planted(tmp_path / "planted")
    package = edgelm.export(source, tmp_path / "out", precision=precision)
    assert package.manifest.recipe["rules"][0] == [AT_FAULT, form]
    assert [rule for rule in package.manifest.recipe["rules"] if "layers.1." in rule[0]] == [[AT_FAULT, form]]


def test_a_cache_of_integers_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs are tried over a cache of floats, so what they cost is the same to the last bit."""
    costs: list[float] = []
    cost = input_rounding._Trial.cost
    monkeypatch.setattr(input_rounding._Trial, "cost", lambda *args: costs.append(cost(*args)) or costs[-1])
    source = planted(tmp_path / "planted")
    packages = [
        edgelm.export(source, tmp_path / str(kv_cache), precision="int4", kv_cache=kv_cache)
        for kv_cache in (None, "int8")
    ]
    middle = len(costs) // 2
    assert costs[:middle] == costs[middle:]
    assert len(costs) > 2
    plain, integers = (package.manifest.recipe for package in packages)
    assert integers == {**plain, "kv_cache": "int8"}


# With four bits most of what is left is the column's weights, which are lost beside larger ones.
@pytest.mark.parametrize(("precision", "times"), [("int8", 5), ("int4", 1.2)])
def test_rounding_its_input_would_have_cost_much(
    precision: str, times: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = planted(tmp_path / "planted")
    found = edgelm.export(source, tmp_path / "found", precision=precision)
    monkeypatch.setattr(input_rounding, "_NATS", 10.0)
    assert kld(edgelm.export(source, tmp_path / "out", precision=precision)) > times * kld(found)


def test_only_the_node_at_fault_gets_its_input_as_it_is(tmp_path: Path) -> None:
    package = edgelm.export(planted(tmp_path / "planted"), tmp_path / "out", precision="int4")
    assert [name for name, level in levels(package).items() if level != 4] == [AT_FAULT]


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_inputs_without_wide_columns_stay_rounded(precision: str, tmp_path: Path) -> None:
    package = edgelm.export(LLAMA, tmp_path / "out", precision=precision)
    assert AT_FAULT not in [pattern for pattern, _ in package.manifest.recipe["rules"]]
    assert set(levels(package).values()) == {4}


def test_a_recipe_that_was_written_repeats_the_choice(tmp_path: Path) -> None:
    source = planted(tmp_path / "planted")
    found = edgelm.export(source, tmp_path / "found", precision="int4", write_recipe=tmp_path / "found.toml")
    again = edgelm.export(source, tmp_path / "again", recipe=tmp_path / "found.toml")
    assert (found.path / "decoder.onnx").read_bytes() == (again.path / "decoder.onnx").read_bytes()


def test_a_recipe_of_ones_own_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('precision = "int8"\n', encoding="utf-8")
    package = edgelm.export(planted(tmp_path / "planted"), tmp_path / "out", recipe=tmp_path / "own.toml")
    assert set(levels(package).values()) == {4}


def test_a_budget_spends_on_the_projection_at_fault(tmp_path: Path) -> None:
    package = edgelm.export(planted(tmp_path / "planted"), tmp_path / "out", max_kld=0.02)
    (form,) = [form for pattern, form in package.manifest.recipe["rules"] if pattern == AT_FAULT]
    assert form == "float16" or find_format(form).float_input
    assert kld(package) <= 0.02


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("int4-b32", "int4-b32-level0"),
        ("int4-b64-asym", "int4-b64-asym-level0"),
        ("int4-b32-affine", "int4-b32-asym-level0"),
    ],
)
def test_the_format_for_float_inputs_has_the_same_blocks(name: str, expected: str) -> None:
    form = with_float_input(find_format(name))
    assert form == find_format(expected)
    assert form.float_input
    assert find_format(expected).fit(48).name == expected.replace("b64", "b16").replace("b32", "b16")
