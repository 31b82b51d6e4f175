"""T5's relative position bias (Raffel et al. 2019, arXiv:1910.10683): a learned number a head for each bucket of distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.cache import Step, past_lengths
from edgelm_export.blocks.encoder import sequence_positions
from edgelm_export.blocks.precision import as_activation
from edgelm_export.graph import GraphBuilder


@dataclass(frozen=True)
class Buckets:
    """How distances share the rows of a table: near ones have a row each, farther ones ever wider ranges, all from `max_distance` one."""

    count: int
    max_distance: int
    bidirectional: bool  # half of the buckets for keys behind the query; otherwise those count as distance 0

    def of_distances(self) -> NDArray[np.int64]:
        """The bucket of each distance (key minus query) from -max_distance to max_distance."""
        distances = np.arange(-self.max_distance, self.max_distance + 1)
        count = self.count // 2 if self.bidirectional else self.count
        first = np.where(distances > 0, count, 0) if self.bidirectional else 0
        far = np.abs(distances) if self.bidirectional else np.maximum(-distances, 0)
        exact = count // 2
        scale = (count - exact) / math.log(self.max_distance / exact)
        # The small term keeps a power that is exact from being rounded into the bucket before it.
        wide = exact + (np.log(np.maximum(far, exact) / exact) * scale + 1e-9).astype(np.int64)
        return first + np.where(far < exact, far, np.minimum(wide, count - 1))


def relative_bias(
    g: GraphBuilder, name: str, shape: tuple[int, int], buckets: Buckets, queries: ir.Value, keys: ir.Value
) -> ir.Value:
    """Attention bias from a table [rows, heads]: positions int64 [queries] and [keys] -> [1, heads, queries, keys]."""
    weight = g.weight(f"{name}.weight", shape)
    table = g.stored(weight.name, "float32", shape, lambda: [weight.read()])
    # Nodes over constants: ONNX Runtime spreads the table over distances once, when it loads the graph.
    rows = g.op("Gather", table, g.constant(buckets.of_distances()), axis=0)
    by_distance = as_activation(g, g.op("Transpose", rows, perm=[1, 0]), ir.DataType.FLOAT)  # [heads, distances]
    first, last, zero, one = (
        g.constant(np.array(n, np.int64)) for n in (-buckets.max_distance, buckets.max_distance, 0, 1)
    )
    distance = g.op("Sub", g.op("Unsqueeze", keys, zero), g.op("Unsqueeze", queries, one))  # [queries, keys]
    index = g.op("Sub", g.op("Clip", distance, first, last), first)
    return g.op("Unsqueeze", g.op("Gather", by_distance, index, axis=1), zero)


def text_bias(g: GraphBuilder, name: str, heads: int, buckets: Buckets, ids: ir.Value) -> ir.Value:
    """The bias of whole texts, ids [batch, sequence]: [1, heads, sequence, sequence]."""
    positions = sequence_positions(g, ids)
    return relative_bias(g, name, (buckets.count, heads), buckets, positions, positions)


def step_bias(g: GraphBuilder, name: str, heads: int, buckets: Buckets, step: Step, ids: ir.Value) -> ir.Value:
    """The bias of new tokens to all that the cache then holds: [1, heads, sequence, total_sequence_length].

    That of the first row is everyone's, for the rows of an encoder-decoder are equally long.
    """
    first, zero, one = (g.constant(np.array(n, kind)) for n, kind in ((0, np.int64), (0, np.int32), (1, np.int32)))
    past = g.op("Gather", past_lengths(g, step, ids), first, axis=0)  # [1]
    queries = g.op("Add", past, sequence_positions(g, ids))
    # A length stays on the host as long as it is cast to nothing.
    keys = g.op("Cast", g.op("Range", zero, step.total_sequence_length, one), to=ir.DataType.INT64)
    return relative_bias(g, name, (buckets.count, heads), buckets, queries, keys)
