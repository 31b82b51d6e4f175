"""The int8-rows format: close to float, the same for a row alone and in a batch, one table for a lookup and a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm.signature import Port
from edgelm_export.blocks.linear import linear, lookup, lookup_rows
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.graph import GraphBuilder, Value
from edgelm_export.names import name_map
from edgelm_export.quantize.formats import find_format
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.weights import Weights
from edgelm_export.write import DataFile

Array = NDArray[np.float32]
N, K = 40, 48
RNG = np.random.default_rng(0)
WEIGHT, BIAS = RNG.normal(0, 1, (N, K)).astype(np.float32), RNG.normal(0, 1, N).astype(np.float32)
X = RNG.normal(0, 1, (5, 3, K)).astype(np.float32)


def program(
    folder: Path,
    inputs: Port,
    build: Callable[[GraphBuilder, Value], Value],
    ranges: Mapping[str, Array] | None = None,
) -> Program:
    """A graph of one input over the weight and the bias of module `a`."""
    tensors = {
        name: LazyTensor(name, "float32", values.shape, lambda start, stop, values=values: values[start:stop])
        for name, values in (("a.weight", WEIGHT), ("a.bias", BIAS))
    }
    weights = Weights(Checkpoint("hf", {}, {}, tensors, (Path("c"),), dict), name_map({"a": "a"}), {})
    store = DataFile(folder / "p.onnx.data")
    g = GraphBuilder(weights, Recipe("test", (("*", "int8-rows"),), ranges=ranges), PROVIDERS["cpu"], store)
    g.declare([inputs])
    g.output(Port("y", "float32", ("n", "m", "size")), build(g, g.input(inputs.name)))
    store.close()
    (folder / "p.onnx").write_bytes(ir.to_proto(g.finish("p")).SerializeToString())
    return Program(folder / "p.onnx", PROVIDERS["cpu"])


def run(program: Program, name: str, values: NDArray[np.generic]) -> Array:
    return program.run({name: values}, ["y"])[0]


@pytest.fixture(scope="module")
def projection(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("projection")
    return program(folder, Port("x", "float32", ("n", "m", K)), lambda g, x: linear(g, x, {"a": N}, K, bias=True))


def test_a_projection_is_close_to_float(projection: Program) -> None:
    wanted = X @ WEIGHT.T + BIAS
    assert np.sqrt(np.mean((run(projection, "x", X) - wanted) ** 2)) / wanted.std() < 0.015


def test_a_row_is_the_same_to_the_bit_whatever_its_batch(projection: Program) -> None:
    x = X.copy()
    x[0] *= 1000  # a scale for all rows would show
    together = run(projection, "x", x)
    for i in range(len(x)):
        assert (run(projection, "x", x[i : i + 1]) == together[i]).all()
        assert (run(projection, "x", x[i : i + 1, 1:2]) == together[i, 1]).all()


def test_known_ranges_take_most_of_the_error_of_a_wide_column(projection: Program, tmp_path: Path) -> None:
    x = X.copy()
    x[..., 5] *= 60
    wanted = x @ WEIGHT.T + BIAS
    ranges = {"a": np.abs(x).reshape(-1, K).max(0)}
    port = Port("x", "float32", ("n", "m", K))
    smoothed = program(tmp_path, port, lambda g, x: linear(g, x, {"a": N}, K, bias=True), ranges)
    errors = [float(np.sqrt(np.mean((run(one, "x", x) - wanted) ** 2))) for one in (projection, smoothed)]
    assert errors[1] < errors[0] / 2


def test_a_row_of_zeros_gives_the_bias(projection: Program) -> None:
    x = X.copy()
    x[1] = 0
    assert (run(projection, "x", x)[1] == BIAS).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows(projection: Program, bad: float) -> None:
    x = X.copy()
    x[2, 0] = bad
    found = run(projection, "x", x)
    assert not np.isfinite(found[2, 0]).any()
    assert np.isfinite(found[[0, 1, 3, 4]]).all()


def test_looked_up_rows_are_those_of_the_format(tmp_path: Path) -> None:
    ids = np.array([[0, 39, 7], [7, 7, 1]])
    table = program(tmp_path, Port("ids", "int64", ("n", "m")), lambda g, ids: lookup(g, ids, "a", (N, K)))
    form = find_format("int8-rows").fit(K, gathered=True)
    assert (run(table, "ids", ids) == form.dequantize(form.quantize(WEIGHT), K)[ids]).all()


def test_a_table_and_its_product_are_stored_once(tmp_path: Path) -> None:
    def tied(g: GraphBuilder, ids: Value) -> Value:
        rows = lookup_rows(g, ids, "a", g.weight("a.weight", (N, K)), find_format("int8-rows"))
        return linear(g, rows, {"a": N}, K)

    ids = np.array([[3, 4]])
    found = run(program(tmp_path, Port("ids", "int64", ("n", "m")), tied), "ids", ids)
    assert found.argmax(-1).tolist() == ids.tolist()
    assert (tmp_path / "p.onnx.data").stat().st_size < find_format("int8-rows").nbytes(N, K) + 128
