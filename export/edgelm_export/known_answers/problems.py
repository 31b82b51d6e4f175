"""What a known answer is made of: the setting of an operator as a program uses it, and small problems in that setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]

# Float kernels differ in the order of sums, and in how they approximate exp.
FLOAT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Setting:
    """A node without what it computes with.

    Attributes:
        op_type, domain: the operator.
        attributes: as the node has them.
        given: which inputs are there.
        outputs: how many outputs are asked for.
        dtype: of activations.
    """

    op_type: str
    domain: str
    attributes: Mapping[str, Any]
    given: tuple[bool, ...]
    outputs: int
    dtype: str = "float32"

    @classmethod
    def of(cls, node: ir.Node, dtype: str = "float32") -> Setting:
        """The setting of a node whose activations have `dtype`."""
        attributes = {name: attribute.value for name, attribute in sorted(node.attributes.items())}
        given = tuple(value is not None for value in node.inputs)
        return cls(node.op_type, node.domain, attributes, given, len(node.outputs), dtype)

    @property
    def key(self) -> str:
        """The same for equal settings."""
        return repr((self.op_type, self.domain, list(self.attributes.items()), self.given, self.outputs))

    def has(self, place: int) -> bool:
        """Whether the input at that place is there."""
        return place < len(self.given) and self.given[place]


@dataclass(frozen=True)
class Case:
    """Inputs of one call, None where one is left out, and what the first output must be.

    `fed` is the input that the graph's own input goes into, so that nothing can be computed in advance; float or int64.
    """

    inputs: Sequence[Array | None]
    answer: Array
    fed: int = 0


@dataclass(frozen=True)
class Problem:
    """Cases in one setting, and the error, as a share of an answer's largest value, that is no other meaning."""

    attributes: Mapping[str, Any]
    cases: Sequence[Case]
    tolerance: float = FLOAT_TOLERANCE


def drawn(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Normal numbers; all but the first axis share a scale that keeps products near 1."""
    return rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares along the last axis."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
