"""Which projections of a package must not round their inputs to 8 bits: the package itself runs a text both ways.

Kernels at accuracy level 4 round a projection's input block by block. Where one column is a thousand times as wide as those beside it
(massive activations, Sun et al. 2024, arXiv:2402.17762), little is left of the others, and tokens flip.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgelm import signature
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm.session import Program
from edgelm.signature import INT8, CacheGeometry
from edgelm_export.assemble import Plan, assemble
from edgelm_export.blocks.cache import cache_geometry
from edgelm_export.feeds import text_feeds
from edgelm_export.model import Model
from edgelm_export.quality import Divergence
from edgelm_export.quantize.formats import find_format, with_float_input
from edgelm_export.quantize.recipe import Recipe

_ROUNDING = 4  # the accuracy level that rounds inputs
# Tokens of the text that are read.
_TOKENS = 256
# What rounding inputs may cost: nats of mean KL divergence, and a share of the package's whole divergence. SmolLM2: 0.003 with int8.
_NATS, _SHARE = 0.01, 0.1
# A projection is at fault whose input costs such a share of that.
_FAULT = 0.05


def formats_without(
    package: Package, model: Model, provider: Provider, recipe: Recipe, text: Callable[[], Sequence[int]]
) -> dict[str, str]:
    """Formats that keep the inputs of a decoder's projections as they are, by the name of the weight, where rounding them costs too much.

    Args:
        package: measured, so that it is known how far it is from the float graph.
        model: what it was made of.
        provider: what its programs are for.
        recipe: the one it was made by.
        text: gives the token ids of one.
    """
    measured = package.manifest.quality.get("prefill")
    if measured is None or provider.accuracy_level != _ROUNDING or package.manifest.family != "decoder":
        return {}
    program, cache = ir.load(package.program("decoder")), package.manifest.kv_cache
    if cache.dtype == INT8:
        program, cache = _with_float_cache(program, model, provider, recipe), cache_geometry(model.config, provider)
    trial = _Trial(package.program("decoder"), program, provider, cache, text()[:_TOKENS])
    names = [name for name in trial.nodes if not recipe.format_for(name).keeps]
    cost = trial.cost(names) if names else 0.0
    if cost <= max(_NATS, _SHARE * measured["mean_kld"]):
        return {}
    return {name: _without(recipe, name, trial.columns(name)) for name in _at_fault(trial, names, cost, _FAULT * cost)}


def _with_float_cache(program: ir.Model, model: Model, provider: Provider, recipe: Recipe) -> ir.Model:
    """A package's program over the same weights, but with a cache of floats.

    Where inputs differ in their last bits, integers of the cache flip, and others behind them, which would be taken for the cost of the
    inputs: the int4 export of SmolLM2 has no projection at fault, and with such a cache it found 45.
    """
    tensors = {name: value.const_value for name, value in program.graph.initializers.items()}
    places = {
        name: (str(tensor.location), tensor.offset or 0, tensor.length or 0)
        for name, tensor in tensors.items()
        if isinstance(tensor, ir.ExternalTensor)
    }
    [form] = assemble(model, replace(recipe, kv_cache=None), [provider], lambda _: Plan(), known=places).forms
    return form.programs["decoder"]


def _at_fault(trial: _Trial, names: Sequence[str], cost: float, least: float) -> list[str]:
    """Those of a group that cost at least so much by themselves: a group that costs less has none of them."""
    if cost < least:
        return []
    if len(names) == 1:
        return list(names)
    middle = len(names) // 2
    halves = (names[:middle], names[middle:])
    return [name for half in halves for name in _at_fault(trial, half, trial.cost(half), least)]


def _without(recipe: Recipe, name: str, columns: int) -> str:
    """The nearest format whose input is not rounded. Eight bits have no fast kernel for float inputs: theirs become float16."""
    form = recipe.format_for(name).fit(columns)
    return with_float_input(form).name if form.bits == 4 else find_format("float16").name


class _Trial:
    """A decoder whose projections round their inputs or do not, one by one."""

    def __init__(
        self, path: Path, program: ir.Model, provider: Provider, cache: CacheGeometry, ids: Sequence[int]
    ) -> None:
        """`path` is where the data of the program lies."""
        self._path, self._provider = path, provider
        self._model, self._cache, self._ids = program, cache, ids
        found = [node for node in self._model.graph if node.op_type == "MatMulNBits"]
        #: MatMulNBits nodes that round their inputs, by the name of their weight.
        self.nodes = {_weight(node): node for node in found if _attribute(node, "accuracy_level") == _ROUNDING}
        self._reference = self._logits(())

    def columns(self, name: str) -> int:
        """Of a weight."""
        return _attribute(self.nodes[name], "K")

    def cost(self, names: Collection[str]) -> float:
        """Mean KL divergence, in nats, that rounding the inputs of these projections makes."""
        divergence = Divergence()
        divergence.add(self._reference, self._logits(names), self._ids[1:])
        return float(divergence.report()["mean_kld"])

    def _logits(self, rounded: Collection[str]) -> NDArray[np.float32]:
        for name, node in self.nodes.items():
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", _ROUNDING if name in rounded else 0)
        program = Program(self._path, self._provider, graph=ir.to_proto(self._model).SerializeToString())
        everywhere: Mapping[str, NDArray[Any]] = {signature.LOGITS_INDEX: np.arange(len(self._ids))[None]}
        feeds = text_feeds(program, "decoder", self._cache, self._ids, everywhere)
        return program.run(feeds, [signature.LOGITS])[0][0]


def _weight(node: ir.Node) -> str:
    packed = node.inputs[1]
    return "" if packed is None else str(packed.name).removesuffix(".packed")


def _attribute(node: ir.Node, name: str) -> int:
    found = node.attributes.get(name)
    return 0 if found is None else found.as_int()
