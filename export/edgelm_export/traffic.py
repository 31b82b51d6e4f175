"""What a decode step of a program reads of its data file, which is what bounds its speed from below."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

# Operators that read single rows of their first input.
_LOOKUPS = frozenset({"Gather", "GatherBlockQuantized"})
_MIXTURES = frozenset({"MoE", "QMoE"})


def weight_bytes_per_step(programs: Mapping[str, ir.Model]) -> int | None:
    """Bytes of the weights that a step of the decoder with one token reads; None of an encoder.

    Tables that are only looked up do not count, and of a mixture's experts those that one token is sent to.
    """
    program = programs.get("decoder")
    if program is None:
        return None
    read: dict[tuple[int, int], float] = {}
    for node in ir.traversal.RecursiveGraphIterator(program.graph):
        for position, value in enumerate(node.inputs):
            tensor = None if value is None else value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                place = tensor.offset or 0, tensor.length or 0
                # Two initializers over the same bytes are read once, as far as the cache goes.
                read[place] = max(read.get(place, 0.0), _share(node, position, tensor))
    return math.ceil(sum(length * share for (_, length), share in read.items()))


def _share(node: ir.Node, position: int, tensor: ir.ExternalTensor) -> float:
    if node.op_type in _LOOKUPS:
        return 0.0
    if node.op_type in _MIXTURES and position > 1:  # behind the tokens and the router's scores
        chosen = node.attributes["k"].as_int()
        return min(1.0, chosen / tensor.shape.numpy()[0])
    return 1.0
