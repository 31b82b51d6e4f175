"""Which tensors a checkpoint must hold, found by asking the architecture: no table of shapes to keep beside each definition.

That the answer is right is checked where transformers reads the checkpoint: it accepts none with a tensor missing, left over or
misshapen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgelm.providers import PROVIDERS
from edgelm_export.assemble import Plan
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.graph import GraphBuilder
from edgelm_export.model import understand
from edgelm_export.names import NameMap, source_of
from edgelm_export.quantize.recipe import preset
from edgelm_export.transforms import plus_one
from edgelm_export.weights import Weight, Weights


@dataclass(frozen=True)
class Asked:
    """A tensor by the name that the architecture has for it: its shape in the file, and how many inputs a row has.

    `from_one` says that the file keeps the distance from 1.
    """

    canonical: str
    shape: tuple[int, ...]
    inputs: int
    from_one: bool


def asked_tensors(config: Mapping[str, Any]) -> dict[str, Asked]:
    """Every tensor that an export of this config.json would read, by its name in the file. Optional ones are left out."""
    checkpoint = Checkpoint("hf", dict(config), {}, {}, (Path("config.json"),), dict)
    model = understand(checkpoint)
    recorder = _Recorder(model.architecture.names["hf"](model.config))
    recipe = preset("fp32", model.config.num_hidden_layers)
    for build in model.programs.values():
        build(GraphBuilder(cast(Weights, recorder), recipe, PROVIDERS["cpu"], Plan()))
    return recorder.asked


class _Recorder:
    """Stands in for the weights of a checkpoint, and writes down what is wanted of it."""

    def __init__(self, names: NameMap) -> None:
        self._names = names
        self.asked: dict[str, Asked] = {}

    def has(self, name: str) -> bool:
        return False

    def get(self, name: str, shape: tuple[int, ...]) -> Weight:
        source = source_of(self._names, name)
        stored = source.stored_shape(shape)
        self.asked.setdefault(source.name, Asked(name, stored, shape[-1], source.transform is plus_one))
        return Weight(name, shape, LazyTensor(source.name, "float32", stored, _nothing))


def _nothing(start: int, stop: int) -> np.ndarray:
    raise AssertionError("a graph is planned from shapes alone")
