"""Scales of a KV cache of 8-bit integers: how large keys and values get in each channel of each head, over a text the float graph reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.cache import capacity
from edgelm.session import Program
from edgelm.signature import CacheGeometry
from edgelm_export.config import RopeConfig
from edgelm_export.quantize.calibrate import decoder_said

Array = NDArray[np.float32]

# What is larger than anything in the text is cut off, so a little room is left above it.
_HEADROOM = 1.1
_LARGEST = 127

# Significant bits of a scale, rounded up: the last bits of what it comes from depend on the processor, and seldom show in these.
_BITS = 8


def measured_scales(
    program: Program, cache: CacheGeometry, ropes: Sequence[RopeConfig | None], texts: Sequence[Sequence[int]]
) -> Mapping[str, Array]:
    """What the integers of each cache buffer stand for, [num_key_value_heads, head_dim], by the name of its input.

    Args:
        program: the float decoder.
        cache: its own, of floats.
        ropes: how the keys of each layer are turned by their positions.
        texts: token ids, each text from its first token on.
    """
    kept = [(i, kind) for i, layer in enumerate(cache.layers) for kind in layer.buffers]
    outputs = [signature.present(i, kind) for i, kind in kept]
    peaks: dict[str, Array] = {}
    for ids in texts:
        [buffers] = decoder_said(_keeping(cache, len(ids)), [ids])(program, outputs)
        for (i, kind), values in zip(kept, buffers, strict=True):
            port = signature.past(i, kind)
            found = _lengths(values, ropes[i] if kind == "key" else None).max((0, 2))
            peaks[port] = np.maximum(peaks[port], found) if port in peaks else found
    return {port: scales(peak) for port, peak in peaks.items()}


def scales(peaks: Array) -> Array:
    """The steps in which channels are rounded whose largest values are `peaks`; 1 where there is nothing."""
    exact = np.where(peaks > 0, peaks, _LARGEST / _HEADROOM).astype(np.float64) * (_HEADROOM / _LARGEST)
    unit = np.exp2(np.floor(np.log2(exact)) - (_BITS - 1))
    return (np.ceil(exact / unit) * unit).astype(np.float32)


def _keeping(cache: CacheGeometry, length: int) -> CacheGeometry:
    """The cache with buffers that keep all of a text of that length, which those of a window would not."""
    layers = (replace(one, window=None) if capacity(one, length) < length else one for one in cache.layers)
    return replace(cache, layers=tuple(layers))


def _lengths(values: Array, rope: RopeConfig | None) -> Array:
    """How far each channel of values [..., head_dim] gets from 0; of two that turn into each other, at any position."""
    size = values.shape[-1]
    turning = 0 if rope is None else rope.rotary_dim or size
    found = np.abs(values)
    if rope is not None:
        first, second = (
            (slice(0, turning, 2), slice(1, turning, 2))
            if rope.interleaved
            else (slice(0, turning // 2), slice(turning // 2, turning))
        )
        found[..., first] = found[..., second] = np.hypot(values[..., first], values[..., second])
    return found
