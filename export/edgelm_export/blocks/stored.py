"""Rows of weights on their way into the package: in the format asked for, piece by piece, so that one piece bounds the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.kernels import QuantizedWeight
from edgelm_export.blocks.precision import as_activation
from edgelm_export.graph import GraphBuilder
from edgelm_export.quantize.formats import Format, Quantized

Pieces = Callable[[], Iterable[NDArray[np.float32]]]
QuantizedPieces = Callable[[], Iterable[Quantized]]


def stored_floats(g: GraphBuilder, name: str, form: Format, shape: tuple[int, ...], pieces: Pieces) -> ir.Value:
    """A float weight in its format's dtype; `pieces` together have that shape."""
    dtype = np.dtype(form.dtype)
    return g.stored(name, dtype.name, shape, lambda: (piece.astype(dtype, copy=False) for piece in pieces()))


def stored_blocks(
    g: GraphBuilder, name: str, form: Format, rows: tuple[int, ...], k: int, pieces: QuantizedPieces
) -> QuantizedWeight:
    """A weight in blocks: pieces of rows [n, k] in, the initializers `name`.packed, .scales, .zero_points and .offsets out.

    Args:
        rows: (n,), or (experts, n), whose kernel wants a packed row without an axis for its blocks.
    """
    blocks, block_bytes = form.blocks(k), form.block_size * form.bits // 8
    packed_shape = (*rows, blocks, block_bytes) if len(rows) == 1 else (*rows, blocks * block_bytes)
    scales: list[np.ndarray] = []
    zero_points: list[np.ndarray] = []
    offsets: list[np.ndarray] = []

    def packed() -> Iterator[np.ndarray]:
        for part in pieces():
            scales.append(part.scales)
            if part.zero_points is not None:
                zero_points.append(part.zero_points)
            if part.offsets is not None:
                offsets.append(part.offsets)
            yield part.packed

    # The others are there once the last piece is packed, so they are stored in this order.
    stored = g.stored(f"{name}.packed", "uint8", packed_shape, packed)
    scale = g.stored(f"{name}.scales", form.scale_dtype, (*rows, blocks), lambda: scales)
    zeros = added = None
    if not form.symmetric:
        zeros = g.stored(f"{name}.zero_points", "uint8", (*rows, -(-blocks * form.bits // 8)), lambda: zero_points)
    if form.offset_dtype is not None:
        added = as_activation(g, g.stored(f"{name}.offsets", form.offset_dtype, (*rows, blocks), lambda: offsets))
    return QuantizedWeight(rows[-1], k, form, stored, as_activation(g, scale), zeros, added)
