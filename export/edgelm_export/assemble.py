"""Architecture, weights, recipe and provider in; finished graphs and their data out. The same code plans (counts bytes) and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm.manifest import form_file
from edgelm.providers import Provider
from edgelm_export.graph import GraphBuilder, Location, Produce, Store
from edgelm_export.low_rank import Updates
from edgelm_export.model import Model
from edgelm_export.names import source_of
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.weights import Weight, Weights


@dataclass(frozen=True)
class Form:
    """The finished graphs for one provider; `own` says that the package is for it in the first place."""

    provider: Provider
    programs: Mapping[str, ir.Model]
    own: bool

    def file(self, name: str) -> str:
        """What a file of the package is called for this provider."""
        return name if self.own else form_file(name, self.provider.name)

    @property
    def files(self) -> dict[str, str]:
        """The file of each program."""
        return {name: self.file(f"{name}.onnx") for name in self.programs}


@dataclass(frozen=True)
class Assembly:
    """What was built.

    Attributes:
        forms: finished graphs for each provider, the package's own first.
        adapted: the projections that take adapters as inputs, with the weights each joins.
        largest_piece: bytes of the largest piece of a weight that is in memory at once.
    """

    forms: Sequence[Form]
    adapted: Mapping[str, Sequence[Weight]]
    largest_piece: int


class Plan:
    """A store that only counts: bytes and tensors that an export would write."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.tensors = 0
        self.largest_piece = 0

    def add(self, dtype: np.dtype[Any], shape: Sequence[int], produce: Produce) -> tuple[str, int, int]:
        """Counts the tensor; its rows are never asked for."""
        length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.nbytes += length
        self.tensors += 1
        return "plan", 0, length


def assemble(
    model: Model,
    recipe: Recipe,
    providers: Sequence[Provider],
    store_for: Callable[[str], Store],
    taps: Sequence[str] = (),
    known: Mapping[str, Location] | None = None,
) -> Assembly:
    """Builds every program of the architecture for each provider; weights go to `store_for(program)` as they are quantized.

    What programs share is stored once, and those of one provider share all weights with those of another. Where tensors are `known`
    to lie already, by their names, they are not stored again.

    Raises:
        MissingWeights, UnusedWeights, WrongShape: the checkpoint does not fit the architecture, or an adapter the checkpoint;
            with a plan as store, this is known before a byte is read.
        UnsupportedConfig: an adapter that cannot be kept apart.
    """
    names = model.names
    ignored = {**model.architecture.ignored, **model.architecture.left_out(model.config)}
    ignored |= {f"{names[name].name}.*": "of a head that this task leaves out" for name in model.head_names}
    if "lm_head" in names and (model.config.tie_word_embeddings or model.family == "encoder"):
        ignored[source_of(names, "lm_head.weight").name] = "tied to the token table, or not asked for"
    if model.architecture.seq2seq and model.family == "encoder":
        others = [names[name].name for name in names if name.startswith(("decoder.", "final_"))]
        ignored |= {f"{other.replace('{i}', '*')}*": "of the decoder" for other in others}
    weights = Weights(model.checkpoint, names, ignored, Updates(model.adapters, model.module_names))
    written = dict(known or {})

    def program(name: str, build: Callable[[GraphBuilder], None], provider: Provider) -> ir.Model:
        g = GraphBuilder(weights, recipe, provider, store_for(name), taps, written)
        build(g)
        return g.finish(name)

    forms = [
        Form(provider, {name: program(name, build, provider) for name, build in model.programs.items()}, own=i == 0)
        for i, provider in enumerate(providers)
    ]
    weights.finish()
    return Assembly(forms, weights.updates.projections, weights.largest_piece)


def plan(model: Model, recipe: Recipe, *providers: Provider) -> Plan:
    """What an export would write, from headers alone; raises as `assemble` does."""
    counted = Plan()
    counted.largest_piece = assemble(model, recipe, providers, lambda _: counted).largest_piece
    return counted
