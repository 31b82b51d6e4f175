"""The tensors of a quantized checkpoint on their way from how they are stored to the values they stand for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgelm_export.checkpoint.base import Grid, LazyTensor
from edgelm_export.checkpoint.files import shown

# What a runtime would scale activations and cached keys and values by; weights do not depend on it.
_RUNTIME_SCALES = (
    *(".input_scale", ".activation_scale", ".output_scale"),
    *(".q_scale", ".k_scale", ".v_scale", ".kv_scale"),
)


@dataclass(frozen=True)
class Part:
    """A tensor that holds a part of a weight: the end of its name, the types it may have, its shape and other spellings of it."""

    leaf: str
    dtypes: Sequence[str]
    shape: tuple[int, ...]
    others: Sequence[tuple[int, ...]] = ()
    optional: bool = False


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

    def matrices(self, leaf: str, dtypes: Sequence[str]) -> Iterator[tuple[str, LazyTensor]]:
        """Those of them that have rows and columns and one of these types; what does not is noted."""
        for name, tensor in self.ending(leaf):
            if tensor.dtype in dtypes and len(tensor.shape) == 2 and 0 not in tensor.shape:
                yield name, tensor
            else:
                found = f"{shown(tensor.name)} is {tensor.dtype} {list(tensor.shape)}"
                self.problem(f"{found}, expected {' or '.join(dtypes)} of rows and columns")

    def replace(self, parts: Iterable[LazyTensor], tensor: LazyTensor) -> None:
        """Puts a logical tensor in the place of its parts."""
        for part in parts:
            self.logical.pop(part.name, None)
        self.logical[tensor.name] = tensor
        self.replaced += 1

    def parts(self, name: str, *expected: Part) -> dict[str, LazyTensor] | None:
        """The parts of a weight by the ends of their names; None, and everything that is wrong noted, if they are not as expected."""
        found = {part.leaf: self.stored[name + part.leaf] for part in expected if name + part.leaf in self.stored}
        before = len(self.problems)
        for part in expected:
            tensor = found.get(part.leaf)
            if tensor is None:
                if not part.optional:
                    self.problem(f"{shown(name)} lacks {shown(name + part.leaf)}")
            elif tensor.dtype not in part.dtypes or tensor.shape not in (part.shape, *part.others):
                expects = f"{' or '.join(part.dtypes)} {list(part.shape)}"
                self.problem(f"{shown(tensor.name)} is {tensor.dtype} {list(tensor.shape)}, expected {expects}")
        return found if len(self.problems) == before else None

    def put(self, name: str, dtype: str, shape: tuple[int, int], grid: Grid, parts: Collection[LazyTensor]) -> None:
        """Puts a matrix that is stored as integers in the place of its parts."""
        if name in self.stored and self.stored[name] not in parts:
            self.problem(f"{shown(name)} is there beside what stands for it")
        nbytes = sum(part.nbytes for part in parts)
        self.replace(parts, LazyTensor(name, dtype, shape, grid.values, nbytes=nbytes, grid=grid))

    def find_stray(self, leaf: str, whole: str) -> None:
        """Notes tensors that end so and have none that ends with `whole` beside them."""
        for name, tensor in self.ending(leaf):
            if name + whole not in self.stored:
                self.problem(f"{shown(tensor.name)} is of no use: {shown(name + whole)} is not there")

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
