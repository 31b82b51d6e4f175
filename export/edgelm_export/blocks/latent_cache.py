"""The cache of latents: written in place, and read by all heads of a query at once where that is faster.

GroupQueryAttention goes through the keys once for every head, although all heads share them here. In a decode step, plain matrix
products read them once for 16 heads: 6 ms instead of 20 at 4,096 positions (ONNX Runtime 1.31 and 1.32, one thread). Their scores are
laid out [positions, heads] and what is gathered [width, heads], so that the latents stand where the products' kernel need not repack
them. With many tokens the heads' products are large already, and only the fused kernel gets by without all scores in memory. A
provider that cannot branch takes the products for any number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgelm import signature
from edgelm_export.blocks.cache import Step, cache_inputs, step_positions
from edgelm_export.blocks.kernels import attention_to_cache, shared_key_attention
from edgelm_export.config import DeepseekConfig
from edgelm_export.graph import GraphBuilder


@dataclass(frozen=True)
class LatentStep:
    """What one call shares between its layers.

    Attributes:
        step: lengths, and each layer's rotary positions.
        places: where the new latents go, as row, 0 and position: int64 [batch, sequence, 3].
        single: whether there is one token a row, bool []; None where the provider cannot branch.
        seen: which positions of the buffers each token sees, bool [batch, max_length, sequence, 1].
    """

    step: Step
    places: ir.Value
    single: ir.Value | None
    seen: ir.Value


def latent_inputs(g: GraphBuilder, c: DeepseekConfig) -> LatentStep:
    """Declares the inputs of a decoder program."""
    step, ids = cache_inputs(g, c, turned_by_kernel=False), g.input(signature.INPUT_IDS)
    last, middle, none, one = (g.constant(np.array(n, np.int64)) for n in ([-1], [1], 0, 1))
    positions = step_positions(g, step, ids)
    zeros = g.op("Mul", positions, none)
    batch, sequence = (g.op("Squeeze", g.op("Shape", ids, start=axis, end=axis + 1)) for axis in (0, 1))
    rows = g.op("Add", zeros, g.op("Unsqueeze", g.op("Range", none, batch, one), last))
    places = g.op("Concat", *(g.op("Unsqueeze", part, last) for part in (rows, zeros, positions)), axis=-1)
    room = g.op("Squeeze", g.op("Shape", g.input(signature.past(0, "key")), start=2, end=3))
    held = g.op("Unsqueeze", g.op("Range", none, room, one), last)  # [max_length, 1]
    seen = g.op("Unsqueeze", g.op("LessOrEqual", held, g.op("Unsqueeze", positions, middle)), last)
    single = g.op("Equal", sequence, one) if g.provider.branches else None
    return LatentStep(step, places, single, seen)


def attention_to_latents(
    g: GraphBuilder, query: ir.Value, latents: ir.Value, c: DeepseekConfig, shared: LatentStep, i: int
) -> ir.Value:
    """What each head gathers of the latents of layer `i`: query [batch, sequence, heads * kept_dim] -> the same.

    Args:
        latents: of the new tokens, [batch, sequence, kept_dim]; they go into the cache.
    """
    cache = g.op("ScatterND", g.input(signature.past(i, "key")), shared.places, latents)
    g.output(signature.cache_port(signature.present(i, "key"), shared.step.cache, i), cache)
    heads, scale = c.num_attention_heads, c.latent.scale
    lengths = (shared.step.seqlens_k, shared.step.total_sequence_length)

    def by_products() -> ir.Value:
        return shared_key_attention(g, query, cache, shared.seen, (heads, c.latent.kept_dim), scale)

    if shared.single is None:
        return by_products()
    return g.op(
        "If",
        shared.single,
        then_branch=g.inner("single", by_products),
        else_branch=g.inner("several", lambda: attention_to_cache(g, query, cache, lengths, heads, scale)),
    )
