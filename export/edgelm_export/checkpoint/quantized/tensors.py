"""The tensors of a quantized checkpoint on their way from how they are stored to the values they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from edgelm_export.checkpoint.base import LazyTensor

# What a runtime would scale activations and cached keys and values by; weights do not depend on it.
_RUNTIME_SCALES = (
    *(".input_scale", ".activation_scale", ".output_scale"),
    *(".q_scale", ".k_scale", ".v_scale", ".kv_scale"),
)


class StoredTensors:
    """What the files hold, what is made of it, and what stands in the way."""

    def __init__(self, stored: Mapping[str, LazyTensor]) -> None:
        self.stored = stored
        self.logical = dict(stored)
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.replaced = 0  # logical tensors that were put in the place of their parts

    def ending(self, suffix: str) -> Iterator[tuple[str, LazyTensor]]:
        """The stored tensors whose names end so, each with the rest of its name."""
        for name, tensor in self.stored.items():
            if name.endswith(suffix) and len(name) > len(suffix):
                yield name.removesuffix(suffix), tensor

    def replace(self, parts: Iterable[LazyTensor], tensor: LazyTensor) -> None:
        """Puts a logical tensor in the place of its parts."""
        for part in parts:
            self.logical.pop(part.name, None)
        self.logical[tensor.name] = tensor
        self.replaced += 1

    def problem(self, text: str) -> None:
        """Notes something that stands in the way."""
        self.problems.append(text)

    def leave_out_runtime_scales(self) -> None:
        """Takes the scales of activations out: they stay float here, so nothing is scaled."""
        found = [
            name
            for name, tensor in self.stored.items()
            if name.endswith(_RUNTIME_SCALES) and math.prod(tensor.shape) == 1
        ]
        for name in found:
            self.logical.pop(name, None)
        if found:
            self.notes.append(
                f"{len(found):,} scales of activations ({found[0]} the first) are not used: "
                "they are for a runtime that rounds activations to 8 bits"
            )
