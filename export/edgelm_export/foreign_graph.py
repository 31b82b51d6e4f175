"""A float graph that another exporter made becomes a program of a package: our inputs and outputs, each weight in the format of the recipe.

Weights are told apart by their values: what two programs hold, or a token table and the head tied to it, is stored once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgelm import signature
from edgelm.errors import UnsupportedArchitecture
from edgelm.signature import CacheGeometry, LayerCache, Port
from edgelm_export.blocks.heads import asked_positions
from edgelm_export.blocks.linear import lookup_rows, project
from edgelm_export.checkpoint.base import LazyTensor
from edgelm_export.graph import GraphBuilder
from edgelm_export.weights import Weight

# Values from which a tensor is a weight: it goes to the data file, and may be quantized.
_LARGE = 1024

_CACHE = re.compile(r"(past_key_values|present)\.(\d+)\.(?:(decoder|encoder)\.)?(key|value)")

_OTHER_CACHE = "the cache of Optimum's graph {}, and edgelm does not run such models"


class ForeignGraph:
    """One graph on its way to a program; what replaces or extends its nodes is built with `g`."""

    def __init__(self, file: Path, g: GraphBuilder) -> None:
        """Reads the graph, renames its cache and puts its weights into the recipe's formats.

        Raises:
            UnsupportedArchitecture: its cache is not keys and values of one shape in each layer.
        """
        self.g = g
        self._model = ir.load(file)
        self._graph = self._model.graph
        self._projections: set[ir.Value] = set()
        self.cache = self._rename_cache()
        self._take_weights()

    def input(self, name: str) -> ir.Value | None:
        """The input of that name, None where the graph has none."""
        return _named(self._graph.inputs, name)

    def output(self, name: str) -> ir.Value:
        """What the graph puts out under that name.

        Raises:
            UnsupportedArchitecture: nothing.
        """
        found = _named(self._graph.outputs, name)
        if found is None:
            names = ", ".join(str(value.name) for value in self._graph.outputs)
            raise UnsupportedArchitecture(f"Optimum's graph puts out {names}, and no {name}, which edgelm reads")
        return found

    def width(self, name: str) -> int:
        """Size of the last axis of an output.

        Raises:
            UnsupportedArchitecture: the graph does not say.
        """
        shape = self.output(name).shape
        size = shape[-1] if shape is not None and len(shape) else None
        if not isinstance(size, int):
            raise UnsupportedArchitecture(f"Optimum's graph does not say how wide its output {name} is")
        return size

    def keep_cache(self) -> None:
        """Cache outputs become outputs of the program, and so do keys and values of a source."""
        for value in self._graph.outputs:
            name = str(value.name)
            if name.startswith(("present.", "cross_key_values.")):
                self.g.output(Port(name, "float32", ("batch", *_sizes(value, name))), value)

    def ask_for_logits(self) -> int:
        """Logits come out at `logits_index` only, which is chosen before the head where that is one product; returns their width."""
        size, logits = self.width(signature.LOGITS), self.output(signature.LOGITS)
        self.g.declare([Port(signature.LOGITS_INDEX, "int64", ("batch", "n"))])
        node = logits.producer()
        if logits in self._projections and node is not None and node.inputs[0] is not None:
            node.replace_input_with(0, asked_positions(self.g, node.inputs[0]))
        else:
            logits.name = "all_logits"
            logits = asked_positions(self.g, logits)
        self.g.output(signature.logits_port(size), logits)
        return size

    def finish(self) -> ir.Model:
        """The program. What it puts out is what was declared with `g`."""
        theirs = set(self._graph.initializers)
        self.g.finish_on(self._graph)
        RemoveUnusedNodesPass()(self._model)
        for name in sorted(theirs & set(self._graph.initializers)):
            self._move(self._graph.initializers[name])
        self._model.producer_name = "edgelm"
        return self._model

    def _rename_cache(self) -> CacheGeometry | None:
        layers: dict[int, LayerCache] = {}
        for value in (*self._graph.inputs, *self._graph.outputs):
            name = str(value.name)
            found = _CACHE.fullmatch(name)
            if found is None:
                if name.startswith(("past", "present", "cache")):
                    raise UnsupportedArchitecture(_OTHER_CACHE.format(f"holds more than keys and values ({name})"))
                continue
            side, number, of, kind = found.groups()
            names = {"past_key_values": signature.past, "present": signature.present}
            value.name = (signature.cross if of == "encoder" else names[side])(int(number), kind)
            if of != "encoder":
                heads, _, head_dim = _sizes(value, name)
                layer = layers.setdefault(int(number), LayerCache(heads, head_dim))
                if (heads, head_dim) != (layer.num_key_value_heads, layer.head_dim):
                    raise UnsupportedArchitecture(
                        _OTHER_CACHE.format(f"has keys and values of different sizes ({name})")
                    )
        if sorted(layers) != list(range(len(layers))):
            raise UnsupportedArchitecture(_OTHER_CACHE.format(f"is that of layers {sorted(layers)} only"))
        return CacheGeometry(tuple(layers[i] for i in range(len(layers)))) if layers else None

    def _take_weights(self) -> None:
        for node in list(self._graph):
            if node.op_type == "MatMul" and _is_table(node.inputs[1]):
                self._replace(node, self._projected)
            elif node.op_type == "Gather" and _is_table(node.inputs[0]) and not node.attributes.get_int("axis", 0):
                self._replace(node, self._looked_up)

    def _replace(self, node: ir.Node, build: Callable[[ir.Node, str], ir.Value]) -> None:
        """Puts what `build` makes for a node, and the name it has in a recipe, in its place."""
        # A tracer names nodes by modules: /model/layers.0/mlp/up_proj/MatMul.
        parts = [part for part in (node.name or "").split("/")[:-1] if part]
        with self.g.at(*parts):
            made = build(node, ".".join(parts))
        old = node.outputs[0]
        made.type, made.shape = old.type, old.shape
        made.name, old.name = old.name, made.name
        ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)

    def _projected(self, node: ir.Node, name: str) -> ir.Value:
        rows = np.ascontiguousarray(_of(node.inputs[1]).T)
        form = self.g.recipe.format_for(name).fit(rows.shape[1])
        made = project(self.g, _given(node.inputs[0]), _stored_as(rows), [_weight(name, rows)], form, None)
        self._projections.add(made)
        return made

    def _looked_up(self, node: ir.Node, name: str) -> ir.Value:
        rows = _of(node.inputs[0])
        form = self.g.recipe.format_for(name).fit(rows.shape[1], gathered=True)
        return lookup_rows(self.g, _given(node.inputs[1]), _stored_as(rows), _weight(name, rows), form)

    def _move(self, value: ir.Value) -> None:
        """A large tensor that is no table goes to the data file as it is."""
        array = _of(value)
        if array.size >= _LARGE:
            stored = self.g.stored(_stored_as(array), array.dtype.name, array.shape, lambda: [array])
            value.const_value = stored.const_value


def _sizes(value: ir.Value, name: str) -> tuple[int, str, int]:
    """Heads, a name for the length, and head_dim of a cache.

    Raises:
        UnsupportedArchitecture: it has another shape.
    """
    shape = list(value.shape or ())
    if len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        raise UnsupportedArchitecture(
            _OTHER_CACHE.format(f"is not [batch, heads, length, head_dim] but {shape} ({name})")
        )
    return shape[1], f"length of {name}", shape[3]


def _named(values: Iterable[ir.Value], name: str) -> ir.Value | None:
    return next((value for value in values if value.name == name), None)


def _is_table(value: ir.Value | None) -> TypeGuard[ir.Value]:
    """Whether it is a weight of two axes."""
    tensor = None if value is None else value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2 and tensor.size >= _LARGE


def _of(value: ir.Value | None) -> np.ndarray:
    tensor = None if value is None else value.const_value
    if tensor is None:
        raise TypeError("not a constant")
    return tensor.numpy()


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise TypeError("a node without its input")
    return value


def _stored_as(array: np.ndarray) -> str:
    """The name of a weight in a data file."""
    digest = hashlib.sha256(np.ascontiguousarray(array).data)
    digest.update(f"{array.dtype} {array.shape}".encode())
    return f"weight.{digest.hexdigest()[:32]}"


def _weight(name: str, rows: np.ndarray) -> Weight:
    """Rows that are in memory, or mapped, as a tensor of a checkpoint."""

    def read(start: int, stop: int) -> np.ndarray:
        return rows[start:stop]

    shape: Sequence[int] = rows.shape
    return Weight(name, tuple(shape), LazyTensor(name, "float32", tuple(shape), read))
