"""Adapters (LoRA) that a package keeps apart from its weights: inputs of the decoder program, bound anew to change from one to another.

ONNX Runtime's own adapters are ignored where buffers are bound (release 1.31), hence inputs. They may have rank 0, and then
add nothing and cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.cuda import host_dtype
from edgelm.errors import InvalidOption, ManifestError
from edgelm.session import DTYPES, Program

if TYPE_CHECKING:
    from edgelm.package import Package

_LARGEST_RANK = 2**20

Factors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class KeptAdapter:
    """What the manifest says of an adapter.

    Attributes:
        file: both factors of every projection, in the order of the program's inputs, one after the other.
        id: where it comes from.
        source: the SHA-256 of every file that it was made of.
        ranks: of each projection that the program takes adapters for; 0 where this one adds nothing.
    """

    file: str
    id: str
    source: Mapping[str, str]
    ranks: Mapping[str, int]

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> KeptAdapter:
        """What stands in the manifest.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        file, id, source, ranks = (values[key] for key in ("file", "id", "source", "ranks"))
        if not (isinstance(file, str) and isinstance(id, str) and isinstance(source, dict)):
            raise TypeError("its file, id or source is of another kind")
        if not isinstance(ranks, dict) or not all(map(_is_rank, cast("dict[str, Any]", ranks).values())):
            raise TypeError("its ranks are no whole numbers")
        return cls(file, id, cast("dict[str, str]", source), cast("dict[str, int]", ranks))


class Adapters:
    """The adapters of a loaded decoder as arrays to bind."""

    def __init__(self, package: Package, program: Program) -> None:
        """Compares what the manifest says with the program's inputs; a file is mapped when it is first asked for.

        Raises:
            ManifestError: they do not fit each other.
        """
        self._folder, self._kept = package.path, package.manifest.adapters
        self._dtype = np.dtype(host_dtype(package.manifest.activations))
        self._sizes = _sizes(program)
        self._mapped: dict[str, Factors] = {}
        for name, adapter in self._kept.items():
            held = sum(adapter.ranks.get(one, 0) * sum(sizes) for one, sizes in self._sizes.items())
            size = package.manifest.files[adapter.file]["size"]
            if set(adapter.ranks) != set(self._sizes) or not held or held * self._dtype.itemsize != size:
                raise ManifestError(
                    f"{package.path}: adapter {name} does not fit the program's inputs; export the package again"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Those there are."""
        return tuple(self._kept)

    def factors(self, name: str) -> Factors:
        """What to bind for an adapter, by the name of the input.

        Raises:
            InvalidOption: the package has no adapter of that name.
        """
        if name not in self._kept:
            has = f"it has {', '.join(self._kept)}" if self._kept else "export one into it with --keep-adapter NAME=DIR"
            raise InvalidOption(f"adapter {name!r} is not in {self._folder}; {has}")
        if name not in self._mapped:
            values = np.memmap(self._folder / self._kept[name].file, self._dtype, "r")
            self._mapped[name] = _slices(values, self._sizes, self._kept[name].ranks)
        return self._mapped[name]


class AdapterMemory:
    """An adapter as what all rows of a batch read (decode.Memory)."""

    def __init__(self, factors: Factors) -> None:
        self._factors = factors

    def inputs(self, start: int, stop: int) -> Factors:
        """The same for all rows."""
        return self._factors

    def reorder(self, parents: Sequence[int]) -> bool:
        """Nothing to bind anew."""
        return False


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_RANK


def no_adapter(program: Program) -> Factors:
    """What to bind where no adapter is wanted: factors of rank 0. Nothing for a program that takes none."""
    sizes = _sizes(program)
    if not sizes:
        return {}
    dtype = DTYPES[program.types[signature.lora_a(next(iter(sizes)))]]
    return _slices(np.zeros(0, host_dtype(dtype)), sizes, dict.fromkeys(sizes, 0))


def _sizes(program: Program) -> dict[str, tuple[int, int]]:
    """in_features and out_features of every projection that adapters may change."""
    shapes = program.input_shapes
    projections = signature.adapted_projections(shapes)
    return {name: (shapes[signature.lora_a(name)][0], shapes[signature.lora_b(name)][1]) for name in projections}


def _slices(values: NDArray[Any], sizes: Mapping[str, tuple[int, int]], ranks: Mapping[str, int]) -> Factors:
    """The factors that lie in `values` one after the other."""
    factors: dict[str, NDArray[Any]] = {}
    start = 0
    for projection, (in_features, out_features) in sizes.items():
        rank = ranks[projection]
        middle, stop = start + in_features * rank, start + (in_features + out_features) * rank
        factors[signature.lora_a(projection)] = values[start:middle].reshape(in_features, rank)
        factors[signature.lora_b(projection)] = values[middle:stop].reshape(rank, out_features)
        start = stop
    return factors
