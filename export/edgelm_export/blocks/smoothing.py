"""Part of the width of an input's columns moved into the weights: x / s times W * s (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438).

The error of a projection that rounds its input to 8 bits is that of the input's few wide columns. How wide they get is known
where the float graph was run before (Recipe.ranges).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm_export.blocks.precision import as_activation
from edgelm_export.graph import GraphBuilder
from edgelm_export.quantize.formats import Format
from edgelm_export.transforms import Promise
from edgelm_export.weights import Weight, not_finite

Factors = NDArray[np.float32]

# Share of a column's width that the weights take over, by what of the input has one scale. A call: cosine of MiniLM to float 0.9981 on
# average and 0.9965 at worst over 256 sentences, 0.993 and 0.983 without factors; 0.7 and 0.9 do less. A row: KL divergence of SmolLM2
# off its grid 0.019, 0.043 without; 0.021 at 0.5, 0.027 at 0.8. A column's fourth-power mean in the place of its range does no better.
_SHARES: Mapping[str | None, float] = {"call": 0.8, "row": 0.65}
_STEPS = 4  # of the factors an octave


def smoothed(
    g: GraphBuilder, x: ir.Value, name: str, weights: Sequence[Weight], form: Format
) -> tuple[ir.Value, Callable[[], Factors] | None]:
    """The input of projection `name` divided by factors [k], and what gives these; as it is, and None, where nothing is known."""
    ranges = None if g.recipe.ranges is None else g.recipe.ranges.get(name)
    if ranges is None:
        return x, None

    @cache
    def factors() -> Factors:
        return _factors(ranges, weights, _SHARES[form.input_scale])

    inverse = g.stored(f"{name}.smoothing", "float32", ranges.shape, lambda: [1 / factors()])
    return g.op("Mul", x, as_activation(g, inverse)), factors


def smooth(weight: Weight, form: Format, factors: Callable[[], Factors] | None) -> Iterator[Promise]:
    """A weight's rows times the factors of its columns, if there are any, in pieces for the format."""
    pieces = weight.promised(form.flaw, form.rows_at_once(weight.shape[1]))
    if factors is None:
        return pieces
    known = factors()  # once, and not by each thread
    return (lambda read=read: read() * known for read in pieces)


def _factors(ranges: Factors, weights: Sequence[Weight], share: float) -> Factors:
    """What each column of the input is divided by, in steps, so that the last bits of a range change no weight."""
    widths = np.zeros_like(ranges)
    for weight in weights:
        for chunk in weight.chunks(not_finite):
            np.maximum(widths, np.abs(chunk).max(0), out=widths)
    known = (ranges > 0) & (widths > 0)
    logs = share * np.log2(ranges, where=known, out=np.zeros_like(ranges))
    logs -= (1 - share) * np.log2(widths, where=known, out=np.zeros_like(widths))
    return np.exp2(np.where(known, np.rint(logs * _STEPS) / _STEPS, 0)).astype(np.float32)
