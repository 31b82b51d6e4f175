"""The fused operators of ONNX Runtime (domain com.microsoft), each behind one function; facts that differ by provider come from its entry.

Layout of a quantized weight [n, k] in MatMulNBits, 4 bits: row by row, block by block, low nibble first.

    packed  uint8 [n, k / block, block / 2]   byte j of a block = value 2j | value 2j+1 << 4
    scales  float [n, k / block]              value = scale * (q - zero point), zero point 8 unless given
    zeros   uint8 [n, ceil(k / block / 2)]    packed the same way along the blocks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from edgelm_export.blocks.precision import number
from edgelm_export.blocks.rotary import Rotary
from edgelm_export.config import ModelConfig
from edgelm_export.graph import CONTRIB, GraphBuilder
from edgelm_export.quantize.formats import Format

# What padding adds to a score: far below any real one, and finite in float16 too.
_LOWEST = -65504.0


@dataclass(frozen=True)
class QuantizedWeight:
    """A stored weight [n, k] in a block format: the values of its initializers."""

    n: int
    k: int
    format: Format
    packed: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None
    offsets: ir.Value | None = None


def matmul_nbits(g: GraphBuilder, x: ir.Value, weight: QuantizedWeight, bias: ir.Value | None = None) -> ir.Value:
    """x @ weight.T + bias with the weight dequantized on the fly."""
    if weight.format.block_sums:
        x = _with_block_sums(g, x, weight.format.block_size)
    inputs = [x, weight.packed, weight.scales, weight.zero_points, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {
        "K": weight.format.columns(weight.k),
        "N": weight.n,
        "bits": weight.format.bits,
        "block_size": weight.format.block_size,
    }
    level = 0 if weight.format.float_input else g.provider.accuracy_level
    y = g.op("MatMulNBits", *inputs, domain=CONTRIB, accuracy_level=level, **attributes)
    if weight.offsets is None:
        return y
    return g.op("Add", y, matmul_transposed(g, _block_sums(g, x, weight.format.block_size), weight.offsets))


def _with_block_sums(g: GraphBuilder, x: ir.Value, block_size: int) -> ir.Value:
    """[batch, sequence, k] -> [batch, sequence, k + k / block_size]: the sum of each block of the input behind it."""
    return g.op("Concat", x, _block_sums(g, x, block_size), axis=-1)


def _block_sums(g: GraphBuilder, x: ir.Value, block_size: int) -> ir.Value:
    """[batch, sequence, k] -> [batch, sequence, k / block_size]."""
    blocks = g.op("Reshape", x, g.constant(np.array([0, 0, -1, block_size], np.int64)))
    return g.op("ReduceSum", blocks, g.constant(np.array([-1], np.int64)), keepdims=0)


def dynamic_quantize_matmul(
    g: GraphBuilder, x: ir.Value, weight: ir.Value, scales: ir.Value, bias: ir.Value | None
) -> ir.Value:
    """x @ (weight * scales) + bias: x rounded to uint8 with one scale and zero point, weight int8 [k, n], scales [n].

    Signed weights without a zero point: unsigned ones take twice the time.
    """
    inputs = [x, weight, scales] + ([None, bias] if bias is not None else [])
    return g.op("DynamicQuantizeMatMul", *inputs, domain=CONTRIB)


def matmul_integer_to_float(g: GraphBuilder, x: ir.Value, weight: ir.Value, scales: ir.Value) -> ir.Value:
    """x @ (weight * scales) for x from -1 to 1, rounded to 255 steps; weight int8 [k, n], scales [n]."""
    step, zero = g.constant(np.array(1 / 127, np.float32)), g.constant(np.array(128, np.uint8))
    rounded = g.op("QuantizeLinear", x, step, zero)
    return g.op("MatMulIntegerToFloat", rounded, weight, step, scales, zero, domain=CONTRIB)


def gather_block_quantized(g: GraphBuilder, ids: ir.Value, weight: QuantizedWeight) -> ir.Value:
    """Rows `ids` of the weight, dequantized: ids [...] -> [..., k]. Reads the very bytes matmul_nbits reads."""
    padded = -(-weight.k // weight.format.block_size) * weight.format.block_size
    table = g.reshaped(weight.packed, (weight.n, padded * weight.format.bits // 8))
    inputs = [table, ids, weight.scales] + ([weight.zero_points] if weight.zero_points is not None else [])
    attributes = {
        "gather_axis": 0,
        "quantize_axis": 1,
        "bits": weight.format.bits,
        "block_size": weight.format.block_size,
    }
    rows = g.op("GatherBlockQuantized", *inputs, domain=CONTRIB, **attributes)
    if weight.offsets is not None:
        rows = _with_offsets(g, rows, g.op("Gather", weight.offsets, ids, axis=0), weight.format.block_size)
    if padded == weight.k:
        return rows
    start, stop, axis = (g.constant(np.array([n], np.int64)) for n in (0, weight.k, -1))
    return g.op("Slice", rows, start, stop, axis)


def _with_offsets(g: GraphBuilder, rows: ir.Value, offsets: ir.Value, block_size: int) -> ir.Value:
    """Rows [..., k], each block of them raised by its offset [..., k / block_size]."""
    ones, last = g.constant(np.array([-1], np.int64)), g.constant(np.array([block_size], np.int64))
    blocks = g.op("Reshape", rows, g.op("Concat", g.op("Shape", offsets), last, axis=0))
    return g.op("Reshape", g.op("Add", blocks, g.op("Unsqueeze", offsets, ones)), g.op("Shape", rows))


def matmul_transposed(g: GraphBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
    """x @ weight.T for a float weight [n, k], so that checkpoints' rows are stored as they come."""
    return g.op("FusedMatMul", x, weight, domain=CONTRIB, transB=1)


class Lengths(Protocol):
    """How many tokens the rows of a call have: int32 [batch], less one, and int32 [], those of the longest row."""

    @property
    def seqlens_k(self) -> ir.Value:
        """Tokens of each row, those of this call included, minus 1."""
        ...

    @property
    def total_sequence_length(self) -> ir.Value:
        """Tokens of the longest row."""
        ...


def group_query_attention(
    g: GraphBuilder,
    queries: Sequence[ir.Value | None],
    past: Sequence[ir.Value | None],
    lengths: Lengths,
    c: ModelConfig,
    *,
    rotary: Rotary | None = None,
    window: int | None = None,
    window_cache: bool = False,
    causal: bool = True,
    bias: ir.Value | None = None,
    sinks: ir.Value | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    cache_scales: Sequence[ir.Value] = (),
    writes: bool = True,
) -> tuple[ir.Value, ...]:
    """Attention over a static cache or over a whole text: (output, present key, present value), or the output alone.

    Args:
        queries: query, key, value, each [batch, sequence, heads * head_dim], or all three packed into the first.
        past: keys and values before these, or nothing.
        lengths: of the rows.
        c: the model.
        rotary: positions that the kernel turns queries and keys by.
        window: how many keys a query sees, its own among them.
        window_cache: the cache keeps the window only (edgelm/cache.py has its layout). Then no row may be padded: to tell
            padding from tokens, the kernel has an input from ONNX Runtime 1.32 on, and refuses such rows without it.
        causal: whether a query sees only what stands before it.
        bias: added to the scaled scores, [1, heads, sequence, total_sequence_length].
        sinks: one more score for each head, of a key that has no value, [heads].
        scale: of the scores; 1 / sqrt(head_dim) by default.
        softcap: scores are softcap * tanh(score / softcap).
        cache_scales: what the integers of a cache of int8 stand for, of keys and of values; none where it holds floats.
        writes: new keys and values go into the cache; without, there are none, and the kernel copies nothing.
    """
    tables = [None, None] if rotary is None else [rotary.cos, rotary.sin]
    inputs = [
        *queries,
        *past,
        lengths.seqlens_k,
        lengths.total_sequence_length,
        *tables,
        None,
        bias,
        sinks,
        *cache_scales,
    ]
    while inputs[-1] is None:
        inputs.pop()
    attributes: dict[str, Any] = {"num_heads": c.num_attention_heads, "kv_num_heads": c.num_key_value_heads}
    if window_cache:
        attributes["sliding_window_cache"] = 1
    if rotary is not None:
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(rotary.rope.interleaved)}
    if scale is not None:
        attributes["scale"] = scale
    if softcap is not None:
        attributes["softcap"] = softcap
    if cache_scales:
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    found = g.op(
        "GroupQueryAttention",
        *inputs,
        domain=CONTRIB,
        outputs=3 if writes else 1,
        causal=int(causal),
        local_window_size=window or -1,
        **attributes,
    )
    if not writes:
        return (found,)
    for value in found[1:] if cache_scales else ():
        value.type = ir.TensorType(ir.DataType.INT8)
    return found


def attention_to_cache(
    g: GraphBuilder, query: ir.Value, cache: ir.Value, lengths: Sequence[ir.Value], heads: int, scale: float
) -> ir.Value:
    """Causal attention of all heads to one buffer that holds keys which are values: [batch, sequence, heads * width] -> the same.

    Args:
        cache: [batch, 1, max_length, width], the new tokens' keys included; it is read where it is.
        lengths: as in Lengths.
        scale: of the scores.
    """
    keys = g.op("Squeeze", cache, g.constant(np.array([1], np.int64)))
    zero, axis = (g.constant(np.array([n], np.int64)) for n in (0, 1))
    none = g.op("Slice", keys, zero, zero, axis)  # no new ones
    # Without outputs for keys and values it does not copy the cache.
    return g.op(
        "GroupQueryAttention",
        *(query, none, none, cache, cache, *lengths),
        domain=CONTRIB,
        num_heads=heads,
        kv_num_heads=1,
        scale=scale,
    )


def shared_key_attention(
    g: GraphBuilder, query: ir.Value, cache: ir.Value, seen: ir.Value, sizes: tuple[int, int], scale: float
) -> ir.Value:
    """The same by matrix products over the whole buffer, whose scores are all in memory at once.

    Args:
        seen: which positions each token sees, bool [batch, max_length, sequence, 1].
        sizes: heads and width.
        scale: of the scores.
    """
    heads, width = sizes
    keys = g.op("Squeeze", cache, g.constant(np.array([1], np.int64)))
    by_head = g.op("Reshape", query, g.constant(np.array([0, -1, width], np.int64)))  # [batch, sequence * heads, width]
    scores = g.op("FusedMatMul", keys, by_head, domain=CONTRIB, transB=1, alpha=scale)
    by_token = g.op("Reshape", scores, g.constant(np.array([0, 0, -1, heads], np.int64)))
    shares = g.op("Softmax", g.op("Where", seen, by_token, number(g, _LOWEST)), axis=1)
    joined = g.op(
        "Reshape", shares, g.constant(np.array([0, 0, -1], np.int64))
    )  # [batch, max_length, sequence * heads]
    gathered = g.op("FusedMatMul", keys, joined, domain=CONTRIB, transA=1)  # [batch, width, sequence * heads]
    by_head = g.op("Transpose", gathered, perm=[0, 2, 1])
    return g.op("Reshape", by_head, g.constant(np.array([0, -1, heads * width], np.int64)))


def cross_attention_kernel(
    g: GraphBuilder, query: ir.Value, memory: Sequence[ir.Value], mask: ir.Value, c: ModelConfig, scale: float | None
) -> ir.Value:
    """Every query of a source attends to all of it: query [sources, queries, heads * head_dim] -> the same.

    Args:
        memory: keys and values of the sources, each [sources, heads, source, head_dim], read in place.
        mask: int64 [sources, source], 1 for a token.
    """
    padding = g.op("Cast", mask, to=ir.DataType.INT32)
    attributes: dict[str, Any] = {"num_heads": c.num_attention_heads} | ({} if scale is None else {"scale": scale})
    return g.op("MultiHeadAttention", query, *memory, None, padding, domain=CONTRIB, **attributes)


def rotary_embedding(g: GraphBuilder, x: ir.Value, rotary: Rotary, positions: ir.Value, heads: int) -> ir.Value:
    """Queries or keys [batch, sequence, heads * head_dim] turned by their positions, which are as in Rotary."""
    size = rotary.rope.rotary_dim
    attributes = {"num_heads": heads, "rotary_embedding_dim": size} if size else {}
    return g.op(
        "RotaryEmbedding",
        x,
        positions,
        rotary.cos,
        rotary.sin,
        domain=CONTRIB,
        interleaved=int(rotary.rope.interleaved),
        **attributes,
    )


def multi_head_attention(
    g: GraphBuilder,
    queries: Sequence[ir.Value],
    mask: ir.Value,
    c: ModelConfig,
    bias: ir.Value | None = None,
    scale: float | None = None,
) -> ir.Value:
    """Bidirectional attention of query, key and value [batch, sequence, heads * head_dim] -> the same.

    The standard operator is the fastest on CPU: 8 % of a whole MiniLM before com.microsoft MultiHeadAttention. It wants the mask
    in full; ONNX Runtime builds it once for all layers, for their nodes are the same.

    Args:
        mask: int64 [batch, sequence], 1 for a token.
        bias: added to the scaled scores, [1 or batch, 1 or heads, sequence, sequence].
        scale: of the scores; 1 / sqrt(head_dim) by default.
    """
    keys = g.op("Unsqueeze", g.op("Cast", mask, to=ir.DataType.BOOL), g.constant(np.array([1, 2], np.int64)))
    if bias is None:
        ones = g.constant(np.array([1], np.int64))
        square = g.op("Concat", ones, ones, g.op("Shape", mask, start=1, end=2), ones, axis=0)
        attend = g.op("Expand", keys, square)  # [batch, 1, sequence, sequence]
    else:
        attend = g.op("Where", keys, bias, number(g, _LOWEST))
    attributes: dict[str, Any] = {"q_num_heads": c.num_attention_heads, "kv_num_heads": c.num_key_value_heads}
    if scale is not None:
        attributes["scale"] = scale
    return g.op("Attention", *queries, attend, **attributes)
