"""Which blocks of a package differ most from the float graph: both run one text, and what each projection puts out is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm.manifest import Manifest
from edgelm.providers import Provider
from edgelm.session import Program
from edgelm_export.feeds import text_feeds
from edgelm_export.graph import DTYPES, is_unnamed

Graphs = Mapping[str, tuple[Path, Provider]]  # by the name of the program
Arrays = Mapping[str, NDArray[Any]]

WORST = 5
# Of the text; what all blocks say about more of it would take hundreds of megabytes in a large model.
_TOKENS = 64


def worst_layers(
    manifest: Manifest, references: Graphs, candidates: Graphs, ids: Sequence[int]
) -> list[dict[str, Any]]:
    """The blocks with the largest errors, worst first: their names, which recipes use too, and |found - expected| / |expected|.

    Errors of earlier blocks are in those of later ones, as they are when the package runs. Norms are Frobenius', over all tokens.

    Args:
        manifest: of the package.
        references: the float graphs.
        candidates: those of the package.
        ids: the text.
    """
    expected, found = (_run(manifest, graphs, ids[:_TOKENS]) for graphs in (references, candidates))
    errors = {name: _error(expected[name], found[name]) for name in expected if name in found}
    worst = sorted(errors, key=lambda name: -errors[name])[:WORST]
    return [{"name": name, "relative_error": round(errors[name], 6)} for name in worst]


def _run(manifest: Manifest, graphs: Graphs, ids: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """What every block of every program puts out, programs one after another in memory."""
    said: dict[str, NDArray[np.float32]] = {}
    given: dict[str, NDArray[Any]] = {}
    for name, (path, provider) in graphs.items():
        program, blocks = _tapped(path, provider)
        handed_on = [output for output in program.outputs if output.startswith("cross_key_values.")]
        feeds = text_feeds(program, name, manifest.cache, ids, given)
        results = program.run(feeds, [*blocks, *handed_on])
        said |= zip((f"{name}.{block}" if block in said else block for block in blocks), results, strict=False)
        given = dict(zip(handed_on, results[len(blocks) :], strict=True))
    return said


def _tapped(path: Path, provider: Provider) -> tuple[Program, list[str]]:
    """The program with the results of its blocks as outputs, and their names."""
    model = ir.load(path)
    taken = {value.name for value in model.graph.outputs}
    blocks = [
        value for node in model.graph for value in node.outputs if not is_unnamed(value) and value.name not in taken
    ]
    for value in blocks:
        value.type = ir.TensorType(DTYPES[provider.activation_dtype])
        model.graph.outputs.append(value)
    graph = ir.to_proto(model).SerializeToString()
    return Program(path, provider, graph=graph), [str(value.name) for value in blocks]


def _error(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(found.astype(np.float64) - expected)) / max(scale, 1e-30)
