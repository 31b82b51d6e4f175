"""Mixtures of experts as feed-forward layers: a router, experts behind one fused operator, an expert that all tokens share.

Canonical names: router, router_correction; experts.{e}.gate_proj, .up_proj, .down_proj, which recipes know as "experts";
shared.gate_proj, .up_proj, .down_proj, and shared_gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.expert_kernels import Experts, expert_sum
from edgelm_export.blocks.kernels import QuantizedWeight
from edgelm_export.blocks.linear import linear
from edgelm_export.blocks.mlp import gated_mlp
from edgelm_export.blocks.precision import as_activation, as_float, number
from edgelm_export.blocks.routing import route
from edgelm_export.blocks.stored import Pieces, stored_blocks, stored_floats
from edgelm_export.config import MixtureConfig, ModelConfig, MoeConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.quantize.formats import Format
from edgelm_export.quantize.kept import experts_format
from edgelm_export.transforms import Array, Promise
from edgelm_export.weights import Weight, not_finite

# Multiples that CUDA's MoE and QMoE want of both widths. QMoE wants blocks of 32 or more besides, of which 64 is a multiple.
_FLOAT_WIDTHS, _BLOCK_WIDTHS = 16, 64


def mixture_of_experts(g: GraphBuilder, x: ir.Value, c: ModelConfig, m: MoeConfig) -> ir.Value:
    """The sum of the experts a token is routed to (Shazeer et al. 2017, arXiv:1701.06538): [batch, sequence, hidden_size] -> the same."""
    layer = _Layer(g, m, c.hidden_size)
    routing = route(g, x, c.hidden_size, m)
    y = layer.narrowed(expert_sum(g, layer.widened(x), routing, layer.experts(), m))
    if m.routed_scaling_factor != 1:
        y = g.op("Mul", y, number(g, m.routed_scaling_factor))
    if m.shared_intermediate_size:
        y = g.op("Add", y, _shared_expert(g, x, c, m))
    return g.tap("moe", y)


def sparse_or_dense(g: GraphBuilder, x: ir.Value, c: MixtureConfig, i: int) -> ir.Value:
    """The experts of layer i, or its MLP where it has none."""
    return mixture_of_experts(g, x, c, c.moe) if c.moe.sparse_layers[i] else gated_mlp(g, x, c)


def _shared_expert(g: GraphBuilder, x: ir.Value, c: ModelConfig, m: MoeConfig) -> ir.Value:
    with g.at("shared"):
        y = gated_mlp(g, x, c, m.shared_intermediate_size)
    if not m.shared_gate:
        return y
    return g.op("Mul", y, g.op("Sigmoid", linear(g, x, {"shared_gate": 1}, c.hidden_size)))


@dataclass(frozen=True)
class _Layer:
    """The experts of one layer. Both widths are filled up with zeros to what the kernels take."""

    g: GraphBuilder
    m: MoeConfig
    hidden_size: int

    @property
    def form(self) -> Format:
        """The format of all weights: the kernel knows one number of bits and one block size, and none with block sums."""
        sizes = (self.hidden_size, self.m.moe_intermediate_size)
        common = math.gcd(*(-(-size // _BLOCK_WIDTHS) * _BLOCK_WIDTHS for size in sizes))
        form = self.g.recipe.format_for(self.g.name("experts"))
        return experts_format(form).fit(common, gathered=True)

    @property
    def width(self) -> int:
        """Of the experts' inputs and outputs."""
        return _filled(self.hidden_size, self.form)

    @property
    def inner(self) -> int:
        """Of what gate and up put out."""
        return _filled(self.m.moe_intermediate_size, self.form)

    def widened(self, x: ir.Value) -> ir.Value:
        """[batch, sequence, hidden_size] -> [batch, sequence, width]."""
        added = self.width - self.hidden_size
        if not added:
            return x
        # CUDA has no Pad of bfloat16.
        padded = self.g.op("Pad", as_float(self.g, x), self.g.constant(np.array([0, 0, 0, 0, 0, added], np.int64)))
        return as_activation(self.g, padded, ir.DataType.FLOAT)

    def narrowed(self, y: ir.Value) -> ir.Value:
        """[batch, sequence, width] -> [batch, sequence, hidden_size]."""
        if self.width == self.hidden_size:
            return y
        start, stop, axis = (self.g.constant(np.array([n], np.int64)) for n in (0, self.hidden_size, -1))
        return self.g.op("Slice", y, start, stop, axis)

    def experts(self) -> Experts:
        """The stored weights, read one expert after another."""
        inner, hidden = self.m.moe_intermediate_size, self.hidden_size
        gates, ups = self._weights("gate_proj", (inner, hidden)), self._weights("up_proj", (inner, hidden))
        downs = self._weights("down_proj", (hidden, inner))
        pairs, form = list(zip(gates, ups, strict=True)), self.form

        def gate_up() -> Iterator[Promise]:
            step = form.rows_at_once(2 * self.width)
            for gate, up in pairs:
                both = zip(gate.promised(form.flaw, step), up.promised(form.flaw, step), strict=True)
                pieces = (lambda pair=pair: _alternating(*(read() for read in pair)) for pair in both)
                yield from _filled_up(pieces, 2 * inner, (2 * self.inner, self.width))

        def down() -> Iterator[Promise]:
            for weight in downs:
                pieces = weight.promised(form.flaw, form.rows_at_once(self.inner))
                yield from _filled_up(pieces, hidden, (self.width, self.inner))

        return Experts(
            self._stored("gate_up_proj", 2 * self.inner, self.width, gate_up),
            self._stored("down_proj", self.width, self.inner, down),
            *(self._biases() if self.m.expert_bias else (None, None)),
        )

    def _biases(self) -> tuple[ir.Value, ir.Value]:
        inner, hidden = self.m.moe_intermediate_size, self.hidden_size
        gates, ups = self._weights("gate_proj", (inner,), "bias"), self._weights("up_proj", (inner,), "bias")
        downs = self._weights("down_proj", (hidden,), "bias")

        def gate_up() -> Iterator[Array]:
            for gate, up in zip(gates, ups, strict=True):
                both = _alternating(*(next(weight.chunks(not_finite)) for weight in (gate, up)))
                yield np.pad(both, (0, 2 * (self.inner - inner)))

        def down() -> Iterator[Array]:
            for weight in downs:
                yield np.pad(next(weight.chunks(not_finite)), (0, self.width - hidden))

        return self._stored_bias("gate_up_proj", 2 * self.inner, gate_up), self._stored_bias(
            "down_proj", self.width, down
        )

    def _weights(self, name: str, shape: tuple[int, ...], leaf: str = "weight") -> list[Weight]:
        return [self.g.weight(f"experts.{e}.{name}.{leaf}", shape) for e in range(self.m.num_experts)]

    def _stored(self, name: str, n: int, k: int, pieces: Callable[[], Iterator[Promise]]) -> ir.Value | QuantizedWeight:
        key, experts = self.g.name(f"experts.{name}"), self.m.num_experts
        form = self.form
        if form.bits < 16:
            return stored_blocks(self.g, key, form, (experts, n), k, lambda: form.quantize_pieces(pieces()))
        stored = stored_floats(self.g, f"{key}.weight", form, (experts, n, k), lambda: (read() for read in pieces()))
        return as_activation(self.g, stored)

    def _stored_bias(self, name: str, size: int, pieces: Pieces) -> ir.Value:
        key = self.g.name(f"experts.{name}.bias")
        return as_activation(self.g, self.g.stored(key, "float32", (self.m.num_experts, size), pieces))


def _filled(size: int, form: Format) -> int:
    """The next width that all kernels take: those of CUDA refuse others (ONNX Runtime 1.31), and few models have them."""
    multiple = _FLOAT_WIDTHS if form.bits >= 16 else max(_BLOCK_WIDTHS, form.block_size)
    return -(-size // multiple) * multiple


def _alternating(gate: Array, up: Array) -> Array:
    """Rows g0, u0, g1, u1 ..."""
    return np.stack([gate, up], axis=1).reshape(-1, *gate.shape[1:])


def _filled_up(pieces: Iterable[Promise], n: int, shape: tuple[int, int]) -> Iterator[Promise]:
    """Pieces of the n rows of one expert as that shape in all, zeros on the right and below."""
    rows, columns = shape
    for read in pieces:
        yield partial(_widened, read, columns)
    if n < rows:
        yield lambda: np.zeros((rows - n, columns), np.float32)


def _widened(read: Promise, columns: int) -> Array:
    values = read()
    return np.pad(values, ((0, 0), (0, columns - values.shape[1]))) if columns > values.shape[1] else values
