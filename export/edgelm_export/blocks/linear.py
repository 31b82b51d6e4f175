"""linear() and the two ends of a model. Every projection passes through here, and here its weight takes the format the recipe gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.dynamic import dynamic_projection
from edgelm_export.blocks.kernels import QuantizedWeight, gather_block_quantized, matmul_nbits, matmul_transposed
from edgelm_export.blocks.precision import as_activation
from edgelm_export.blocks.rows import lookup_codes, row_projection
from edgelm_export.blocks.stored import stored_blocks, stored_floats
from edgelm_export.config import ModelConfig
from edgelm_export.graph import GraphBuilder
from edgelm_export.quantize.formats import Format, Quantized
from edgelm_export.quantize.kept import Kept, quantized, stored_format
from edgelm_export.weights import Weight

# Before the scope of a projection it names the projection's input among the taps.
INPUT_TAP = "input."


def linear(
    g: GraphBuilder,
    x: ir.Value,
    sizes: Mapping[str, int],
    in_features: int,
    *,
    bias: bool = False,
    group: str | None = None,
) -> ir.Value:
    """One projection, or several of the same input as one: [..., in_features] -> [..., sum of sizes].

    Args:
        sizes: output width of each projection by canonical name, in the order their outputs stand.
        group: the name the joined projection goes by in recipes, taps and files; the single name by default.
    """
    group = group or next(iter(sizes))
    weights = [g.weight(f"{name}.weight", (size, in_features)) for name, size in sizes.items()]
    added = _bias(g, group, sizes) if bias else None
    form = g.recipe.format_for(g.name(group)).fit(in_features)
    x = g.tap(group, x, INPUT_TAP)
    return g.tap(group, project(g, x, g.name(group), weights, form, added))


def split(g: GraphBuilder, x: ir.Value, sizes: Sequence[int]) -> tuple[ir.Value, ...]:
    """The parts of a joined projection along the last axis."""
    if len(sizes) == 1:
        return (x,)
    return g.op("Split", x, g.constant(np.array(sizes, np.int64)), axis=-1, outputs=len(sizes))


def embedding(g: GraphBuilder, ids: ir.Value, c: ModelConfig) -> ir.Value:
    """Rows of the token table: ids [batch, sequence] -> [batch, sequence, hidden_size]."""
    name = "lm_head" if c.tie_word_embeddings else "embed_tokens"
    return lookup(g, ids, "embed_tokens", (c.vocab_size, c.hidden_size), stored_as=name)


def lookup(
    g: GraphBuilder, ids: ir.Value, name: str, shape: tuple[int, int], *, stored_as: str | None = None
) -> ir.Value:
    """Rows `ids` of a table of that shape: ids [...] -> [..., shape[1]]."""
    key = stored_as or g.name(name)
    form = g.recipe.format_for(key).fit(shape[1], gathered=True)
    return g.tap(name, lookup_rows(g, ids, key, g.weight(f"{name}.weight", shape), form))


def lookup_rows(g: GraphBuilder, ids: ir.Value, name: str, weight: Weight, form: Format) -> ir.Value:
    """Rows `ids` of a weight that is stored under `name` in a format for gathering: ids [...] -> [..., columns]."""
    if form.input_scale == "row":
        return lookup_codes(g, ids, name, weight, form)
    stored = _store(g, name, [weight], stored_format(form, weight, gathered=True))
    if isinstance(stored, QuantizedWeight):
        return gather_block_quantized(g, ids, stored)
    return as_activation(g, g.op("Gather", stored, ids, axis=0), stored.dtype)


def lm_head(g: GraphBuilder, x: ir.Value, c: ModelConfig, *, bias: bool = False) -> ir.Value:
    """Logits of each hidden state; a tied head is the token table itself, stored once."""
    table = "embed_tokens" if c.tie_word_embeddings else "lm_head"
    form = g.recipe.format_for("lm_head").fit(c.hidden_size, gathered=c.tie_word_embeddings)
    added = _bias(g, "lm_head", {"lm_head": c.vocab_size}) if bias else None
    if not c.tie_word_embeddings:  # the codes of a table whose rows are looked up must stay the nearest ones
        x = g.tap("lm_head", x, INPUT_TAP)
    return project(g, x, "lm_head", [g.weight(f"{table}.weight", (c.vocab_size, c.hidden_size))], form, added)


def token_logits(g: GraphBuilder, x: ir.Value, c: ModelConfig, size: int, *, bias: str | None) -> ir.Value:
    """Logits of a masked language model over its vocabulary, with the bias of module `bias`; a tied head is the token table."""
    table = "embed_tokens" if c.tie_word_embeddings else "lm_head"
    form = g.recipe.format_for(table).fit(size, gathered=c.tie_word_embeddings)
    added = None if bias is None else _bias(g, bias, {bias: c.vocab_size})
    return project(g, x, table, [g.weight(f"{table}.weight", (c.vocab_size, size))], form, added)


def project(
    g: GraphBuilder, x: ir.Value, name: str, weights: Sequence[Weight], form: Format, bias: ir.Value | None
) -> ir.Value:
    """x @ weights.T + bias, the weights joined and stored under `name` in that format, with what an adapter adds at run time."""
    product = _as_stored(g, x, name, weights, form, bias)
    if not any(weight.kept for weight in weights):
        return product
    # One pair for all parts of a joined projection, the blocks of its second factor on the diagonal. Measured in us for q, k, v and
    # for gate, up of SmolLM2, one row: rank 0 takes 1.6 and 1.8 (a pair each: 6.6 and 3.0), rank 16 17 and 22 (19 and 19).
    a, b = g.adapt(name, weights)
    return g.op("Add", product, g.op("MatMul", g.op("MatMul", x, a), b))


def _as_stored(
    g: GraphBuilder, x: ir.Value, name: str, weights: Sequence[Weight], form: Format, bias: ir.Value | None
) -> ir.Value:
    """x @ weights.T + bias, in the formats that the weights are stored in if that is what the format asks for."""
    if form.input_scale == "call":
        return dynamic_projection(g, x, name, weights, form, bias)
    if form.input_scale == "row":
        return row_projection(g, x, name, weights, form, bias)
    forms = [stored_format(form, weight) for weight in weights]
    if len(set(forms)) == 1 and not (len(forms) > 1 and _is_ordered(forms[0])):
        return _product(g, x, name, weights, forms[0], bias)
    # Parts that the checkpoint stores in different formats, or columns in an order that each part has to itself, are no one matrix.
    pairs = zip(weights, forms, strict=True)
    parts = [_product(g, x, weight.name.removesuffix(".weight"), [weight], own, None) for weight, own in pairs]
    product = g.op("Concat", *parts, axis=-1)
    return product if bias is None else g.op("Add", product, bias)


def _product(
    g: GraphBuilder, x: ir.Value, name: str, weights: Sequence[Weight], form: Format, bias: ir.Value | None
) -> ir.Value:
    """x @ weights.T + bias, one node for all weights."""
    stored = _store(g, name, weights, form)
    if isinstance(stored, QuantizedWeight):
        x = _in_order(g, x, name, weights[0]) if _is_ordered(form) else x
        return matmul_nbits(g, x, stored, bias)
    product = matmul_transposed(g, x, as_activation(g, stored))
    return product if bias is None else g.op("Add", product, bias)


def _is_ordered(form: Format) -> bool:
    return isinstance(form, Kept) and form.ordered


def _in_order(g: GraphBuilder, x: ir.Value, name: str, weight: Weight) -> ir.Value:
    """The columns of an input in the order that a weight's codes have theirs."""
    if weight.grid is None or weight.grid.order is None:
        raise TypeError(f"{weight.name} has no order of columns")
    order = weight.grid.order
    return g.op("Gather", x, g.stored(f"{name}.order", "int64", weight.shape[1:], lambda: [order()]), axis=-1)


def _bias(g: GraphBuilder, group: str, sizes: Mapping[str, int]) -> ir.Value:
    parts = [g.weight(f"{name}.bias", (size,)) for name, size in sizes.items()]
    total = sum(sizes.values())
    return as_activation(
        g, g.stored(g.name(f"{group}.bias"), "float32", (total,), lambda: (part.read() for part in parts))
    )


def _store(g: GraphBuilder, name: str, weights: Sequence[Weight], form: Format) -> ir.Value | QuantizedWeight:
    """Joins the weights' rows, in the format asked for, piece by piece."""
    n, k = sum(weight.shape[0] for weight in weights), weights[0].shape[1]

    def blocks() -> Iterator[Quantized]:
        compensation = g.recipe.compensation(name, form)
        for weight in weights:
            yield from quantized(weight, form, compensation)

    if form.bits < 16:
        return stored_blocks(g, name, form, (n,), k, blocks)
    return stored_floats(
        g, f"{name}.weight", form, (n, k), lambda: chain.from_iterable(weight.chunks(form.flaw) for weight in weights)
    )
