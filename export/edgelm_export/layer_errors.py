"""Which blocks of a package differ most from the float graph: both run one text, and what each projection puts out is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm.providers import Provider
from edgelm.session import Program
from edgelm.signature import CacheGeometry
from edgelm_export.feeds import text_feeds
from edgelm_export.graph import DTYPES, is_unnamed

WORST = 5
# Of the text; what all blocks say about more of it would take hundreds of megabytes in a large model.
_TOKENS = 64


@dataclass(frozen=True)
class Graphs:
    """Programs as files, with what runs them, by name; and the cache that those which write take."""

    cache: CacheGeometry | None
    files: Mapping[str, tuple[Path, Provider]]

    def loaded(self) -> dict[str, Program]:
        """The programs in memory."""
        return {name: Program(*found) for name, found in self.files.items()}


def worst_layers(references: Graphs, candidates: Graphs, ids: Sequence[int]) -> list[dict[str, Any]]:
    """The blocks with the largest errors, worst first: their names, which recipes use too, and |found - expected| / |expected|.

    Errors of earlier blocks are in those of later ones, as they are when the package runs. Norms are Frobenius', over all tokens.

    Args:
        references: the float graphs.
        candidates: those of the package.
        ids: the text.
    """
    expected, found = (_run(graphs, ids[:_TOKENS]) for graphs in (references, candidates))
    errors = {name: _error(expected[name], found[name]) for name in expected if name in found}
    worst = sorted(errors, key=lambda name: -errors[name])[:WORST]
    return [{"name": name, "relative_error": round(errors[name], 6)} for name in worst]


def _run(graphs: Graphs, ids: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """What every block of every program puts out, programs one after another in memory."""
    said: dict[str, NDArray[np.float32]] = {}
    given: dict[str, NDArray[Any]] = {}
    for name, (path, provider) in graphs.files.items():
        program, blocks = _tapped(path, provider)
        handed_on = [output for output in program.outputs if output.startswith("cross_key_values.")]
        feeds = text_feeds(program, name, graphs.cache, ids, given)
        results = program.run(feeds, [*blocks, *handed_on])
        said |= zip((f"{name}.{block}" if block in said else block for block in blocks), results, strict=False)
        given = dict(zip(handed_on, results[len(blocks) :], strict=True))
    return said


def _tapped(path: Path, provider: Provider) -> tuple[Program, list[str]]:
    """The program with the results of its blocks as outputs in float32, and the names of the blocks."""
    model = ir.load(path)
    taken = {value.name for value in model.graph.outputs}
    blocks = [
        value for node in model.graph for value in node.outputs if not is_unnamed(value) and value.name not in taken
    ]
    names = [str(value.name) for value in blocks]
    for value, name in zip(blocks, names, strict=True):
        value.type = ir.TensorType(DTYPES[provider.activation_dtype])
        model.graph.outputs.append(
            value if provider.activation_dtype == "float32" else _widened(model.graph, value, name)
        )
    graph = ir.to_proto(model).SerializeToString()
    return Program(path, provider, graph=graph), names


def _widened(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """The value in float32, which takes its name."""
    value.name = f"{name}.narrow"
    node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
    [wide] = node.outputs
    wide.name, wide.type = name, ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return wide


def _error(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(found.astype(np.float64) - expected)) / max(scale, 1e-30)
