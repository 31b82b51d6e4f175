"""What each format would cost each weight of a float graph: bytes, and divergence as a second-order estimate.

The error of a projection's output has two parts: that of its weights, which follows from the second moments of its input, and that of
its input, which integer kernels round block by block. How much divergence an error makes is measured: the float graph runs once with
one weight rounded, and where there are many layers, those between two measured ones are taken to lie between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm import signature
from edgelm.progress import progress
from edgelm.providers import Provider
from edgelm.session import Program
from edgelm.signature import CacheGeometry
from edgelm_export.feeds import text_feeds
from edgelm_export.quality import Divergence
from edgelm_export.quantize.budget import Option
from edgelm_export.quantize.calibrate import Inputs
from edgelm_export.quantize.compensate import Compensation
from edgelm_export.quantize.formats import Format, find_format, with_float_input

Array = NDArray[np.float32]

# What a weight may be stored in, from few bytes to many.
CANDIDATES = (
    *("int4-b128", "int4-b128-asym", "int4-b64", "int4-b64-asym", "int4-b32", "int4-b32-asym"),
    *("int8-b128", "int8-b64", "int8-b32", "float16"),
)

# Rows of a weight that stand for all of them when the error of a format is estimated.
_ROWS = 96
# Weights that are rounded one at a time to see what that does, and tokens of the text that are read for it.
_MEASURED, _TOKENS = 64, 256
# What they are rounded to: coarse, so that the divergence stands out from the noise of float32.
_PROBE = "int4-b64"
_LEAST = 1e-12  # divergence and error below this are none
_STEPS = 127  # of the integers that an input is rounded to, from 0 to the largest value of a block


@dataclass(frozen=True)
class Weight:
    """A weight of the float graph, mapped from its file: values [n, k], under the name that recipes use."""

    name: str
    values: Array


class Surveyor:
    """Estimates what formats cost; the float graph's weights can be exchanged one at a time."""

    def __init__(
        self, graph: Path, provider: Provider, cache: CacheGeometry, inputs: Inputs, ids: Sequence[int]
    ) -> None:
        """Takes the float graph of a decoder, what is known of the inputs of its projections, and a text."""
        model = ir.load(graph)
        self._inputs = inputs
        self._weights = [
            weight for value in model.graph.initializers.values() if (weight := _weight(value)) is not None
        ]
        for weight in self._weights:  # an initializer that is an input as well can be fed
            model.graph.inputs.append(model.graph.initializers[f"{weight.name}.weight"])
        exchangeable = graph.with_name(f"{graph.stem}-exchangeable.onnx")
        exchangeable.write_bytes(ir.to_proto(model).SerializeToString())
        self._program = Program(exchangeable, provider)
        ids = ids[:_TOKENS]
        everywhere = {signature.LOGITS_INDEX: np.arange(len(ids))[None]}
        self._feeds = text_feeds(self._program, "decoder", cache, ids, everywhere)
        self._targets = ids[1:]
        self._reference = self._logits({})

    def options(self) -> dict[str, list[Option]]:
        """What each candidate costs each weight, by the name of the weight; bytes of a package, mean KL divergence in nats."""
        errors: dict[str, dict[str, float]] = {}
        probes: dict[str, float] = {}
        with progress(len(self._weights), "Estimating errors", "weight") as bar:
            for weight in self._weights:
                errors[weight.name], probes[weight.name] = self._errors(weight)
                bar.advance()
        slopes = self._slopes(probes)
        return {
            weight.name: [
                _option(weight, find_format(form), slopes[weight.name] * error)
                for form, error in errors[weight.name].items()
            ]
            for weight in self._weights
        }

    def _errors(self, weight: Weight) -> tuple[dict[str, float], float]:
        """Mean squared error of all outputs together for each candidate, and for the probe, which does not compensate."""
        n, k = weight.values.shape
        rows = np.array(weight.values[:: -(-n // _ROWS)])
        moments = self._inputs.moments(weight.name)
        compensation = None if moments is None else Compensation(moments)
        errors: dict[str, float] = {}
        for form in dict.fromkeys(find_format(name).fit(k) for name in CANDIDATES):
            error = _weight_error(form, rows, compensation, compensates=True) * n / len(rows)
            of_input = 0.0 if form.bits >= 16 else self._input_error(weight.name, rows, form.block_size) * n / len(rows)
            errors[form.name] = error + of_input
            if form.bits == 4 and of_input > error:
                errors[with_float_input(form).name] = error
        probe = _weight_error(find_format(_PROBE).fit(k), rows, compensation, compensates=False)
        return errors, probe * n / len(rows)

    def _input_error(self, name: str, rows: Array, block_size: int) -> float:
        """What rounding the input block by block does to the outputs of these rows: steps are a block's largest value / 127."""
        peaks = self._inputs.peaks(name, block_size)
        if peaks is None:
            return 0.0
        squares = np.square(rows, dtype=np.float64).sum(0)
        by_block = np.add.reduceat(squares, np.arange(0, len(squares), block_size))
        return float(by_block @ peaks) / (12 * _STEPS**2)

    def _slopes(self, probes: Mapping[str, float]) -> dict[str, float]:
        """Divergence for each unit of error, by the name of the weight."""
        kinds: dict[str, list[Weight]] = {}
        for weight in self._weights:
            kinds.setdefault(re.sub(r"\d+", "*", weight.name), []).append(weight)
        each = max(2, _MEASURED // len(kinds))
        picked = {
            kind: np.unique(np.linspace(0, len(some) - 1, each).round().astype(int)) for kind, some in kinds.items()
        }
        slopes: dict[str, float] = {}
        with progress(sum(map(len, picked.values())), "Measuring sensitivity", "weight") as bar:
            for kind, some in kinds.items():
                logs: list[float] = []
                for i in picked[kind]:
                    divergence = self._divergence(some[i])
                    logs.append(float(np.log(max(divergence, _LEAST) / max(probes[some[i].name], _LEAST))))
                    bar.advance()
                between = np.exp(np.interp(np.arange(len(some)), picked[kind], logs))
                slopes |= {weight.name: float(slope) for weight, slope in zip(some, between, strict=True)}
        return slopes

    def _divergence(self, weight: Weight) -> float:
        """What the probe's rounding of one weight does to the next token."""
        k = weight.values.shape[1]
        form = find_format(_PROBE).fit(k)
        rounded = form.dequantize(form.quantize(np.array(weight.values)), k)
        measured = Divergence()
        measured.add(self._reference, self._logits({f"{weight.name}.weight": rounded}), self._targets)
        return float(measured.report()["mean_kld"])

    def _logits(self, exchanged: Mapping[str, Array]) -> Array:
        return self._program.run({**self._feeds, **exchanged}, [signature.LOGITS])[0][0]


def _weight(value: ir.Value) -> Weight | None:
    """A matrix that a recipe may name."""
    tensor, name = value.const_value, str(value.name)
    if not isinstance(tensor, ir.ExternalTensor) or not name.endswith(".weight") or len(tensor.shape) != 2:
        return None
    return Weight(name.removesuffix(".weight"), tensor.numpy())


def _option(weight: Weight, form: Format, divergence: float) -> Option:
    nbytes = form.nbytes(*weight.values.shape)
    # Products of floats are float32 on a CPU: ONNX Runtime widens shorter ones when it loads them. Float inputs take four times as long.
    read = 4 * weight.values.size if form.bits >= 16 else 4 * nbytes if form.float_input else None
    return Option(form.name, nbytes, divergence, read)


def _weight_error(form: Format, rows: Array, compensation: Compensation | None, *, compensates: bool) -> float:
    if form.bits >= 16:
        rounded = rows.astype(form.dtype).astype(np.float32)
    else:
        used = compensation if compensates and form.compensates else None
        rounded = form.dequantize(form.quantize(rows, used), rows.shape[1])
    if compensation is None:  # a table that is looked up
        return float(np.square(rounded - rows, dtype=np.float64).sum())
    return float(compensation.error(rounded - rows).sum())
