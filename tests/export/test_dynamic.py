"""The int8-dynamic format: stored as the kernel reads it, close to float, and smoothed by what is known of the input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm.signature import Port
from edgelm_export.blocks.linear import linear
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.graph import GraphBuilder
from edgelm_export.names import name_map
from edgelm_export.quantize.formats import find_format
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.weights import Weights
from edgelm_export.write import DataFile

Array = NDArray[np.float32]
K, SIZES = 48, {"a": 40, "b": 24}


def tensor(name: str, values: Array) -> LazyTensor:
    return LazyTensor(name, "float32", values.shape, lambda start, stop: values[start:stop])


def project(
    folder: Path, x: Array, tensors: Mapping[str, Array], form: str, ranges: Mapping[str, Array] | None
) -> Array:
    """x through one joined projection of a and b, as ONNX Runtime computes it."""
    checkpoint = Checkpoint(
        "hf", {}, {}, {name: tensor(name, values) for name, values in tensors.items()}, (Path("c"),), dict
    )
    names = name_map({name: name for name in SIZES})
    store = DataFile(folder / "p.onnx.data")
    recipe = Recipe("test", (("*", form),), ranges=ranges)
    g = GraphBuilder(Weights(checkpoint, names, {}), recipe, PROVIDERS["cpu"], store)
    g.declare([Port("x", "float32", ("n", "m", K))])
    g.output(Port("y", "float32", ("n", "m", 64)), linear(g, g.input("x"), SIZES, K, bias=True, group="ab"))
    store.close()
    (folder / "p.onnx").write_bytes(ir.to_proto(g.finish("p")).SerializeToString())
    (found,) = Program(folder / "p.onnx", PROVIDERS["cpu"]).run({"x": x}, ["y"])
    return found


@pytest.fixture
def tensors() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    weights = {f"{name}.weight": rng.normal(0, 1, (size, K)) for name, size in SIZES.items()}
    biases = {f"{name}.bias": rng.normal(0, 1, size) for name, size in SIZES.items()}
    return {name: values.astype(np.float32) for name, values in (weights | biases).items()}


def expected(x: Array, tensors: Mapping[str, Array]) -> Array:
    parts = [x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"] for name in SIZES]
    return np.concatenate(parts, axis=-1)


def error(found: Array, wanted: Array) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())


def uneven_input() -> Array:
    x = np.random.default_rng(1).normal(0, 1, (2, 9, K)).astype(np.float32)
    x[..., 5] *= 60
    return x


def test_a_projection_is_close_to_float(tmp_path: Path, tensors: dict[str, Array]) -> None:
    x = np.random.default_rng(1).normal(0, 1, (2, 9, K)).astype(np.float32)
    assert error(project(tmp_path, x, tensors, "int8-dynamic", None), expected(x, tensors)) < 0.02


def test_products_do_not_overflow(tmp_path: Path, tensors: dict[str, Array]) -> None:
    """As those of uint8 and int8 do on processors that have AVX2 and nothing newer."""
    alike = {name: np.full_like(values, 0.5) for name, values in tensors.items()}
    x = np.ones((1, 4, K), np.float32)
    np.testing.assert_allclose(project(tmp_path, x, alike, "int8-dynamic", None), expected(x, alike), rtol=1e-3)


def test_known_ranges_take_most_of_the_error_of_a_wide_column(tmp_path: Path, tensors: dict[str, Array]) -> None:
    x, wanted = uneven_input(), expected(uneven_input(), tensors)
    ranges = {"ab": np.abs(x).reshape(-1, K).max(0)}
    plain = error(project(tmp_path, x, tensors, "int8-dynamic", None), wanted)
    smoothed = error(project(tmp_path, x, tensors, "int8-dynamic", ranges), wanted)
    assert smoothed < plain / 2


def test_a_last_bit_of_a_range_changes_no_weight(tmp_path: Path, tensors: dict[str, Array]) -> None:
    ranges = np.abs(uneven_input()).reshape(-1, K).max(0)
    project(tmp_path, uneven_input(), tensors, "int8-dynamic", {"ab": ranges})
    stored = (tmp_path / "p.onnx.data").read_bytes()
    project(tmp_path, uneven_input(), tensors, "int8-dynamic", {"ab": np.nextafter(ranges, np.float32(np.inf))})
    assert (tmp_path / "p.onnx.data").read_bytes() == stored


def test_a_column_that_is_never_used_or_weighs_nothing_is_left_alone(tmp_path: Path, tensors: dict[str, Array]) -> None:
    tensors["a.weight"][:, 3] = tensors["b.weight"][:, 3] = 0
    x = uneven_input()
    x[..., 7] = 0
    ranges = {"ab": np.abs(x).reshape(-1, K).max(0)}
    assert error(project(tmp_path, x, tensors, "int8-dynamic", ranges), expected(x, tensors)) < 0.02


def test_a_table_whose_rows_are_looked_up_is_stored_in_blocks() -> None:
    form = find_format("int8-dynamic")
    assert form.fit(384, gathered=True).name == "int8-b128"
    assert form.fit(384).name == "int8-dynamic"
    assert form.nbytes(10, 384) == 10 * (384 + 4)


def test_rows_come_back_within_half_a_step() -> None:
    rows = np.random.default_rng(2).normal(0, 1, (7, 100)).astype(np.float32)
    form = find_format("int8-dynamic")
    back = form.dequantize(form.quantize(rows), 100)
    step = np.abs(rows).max(1, keepdims=True) / 127
    assert (np.abs(back - rows) <= step * 0.51).all()
