"""GraphBuilder: scopes, inputs, outputs, constants and nodes of one program. It knows no model, no format and no provider's operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from edgelm.providers import Provider
from edgelm.signature import Port, adapter_ports
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.weights import Weight, Weights

# ONNX Runtime 1.31 loads opset 26 and IR 13 at most; the onnx package would write newer ones by default.
OPSET, IR_VERSION = 23, 10
CONTRIB = "com.microsoft"

DTYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "uint8": ir.DataType.UINT8,
    "int8": ir.DataType.INT8,
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
}

Value = ir.Value

Location = tuple[str, int, int]  # file, offset, length
Produce = Callable[[], Iterable[np.ndarray]]


class Store(Protocol):
    """Where tensor bytes go: a data file, or a plan that only counts them."""

    def add(self, dtype: np.dtype[Any], shape: Sequence[int], produce: Produce) -> Location:
        """Takes a tensor's rows piece by piece; returns file name, offset and length."""
        ...


def is_unnamed(value: ir.Value) -> bool:
    """Whether a node's output still goes by the name of its node, and not by that of a block or a port."""
    node = value.producer()
    return node is not None and str(value.name).startswith(str(node.name))


class GraphBuilder:
    """Builds one graph. `weights`, `recipe` and `provider` travel with it so that blocks can emit each weight in its final form."""

    def __init__(
        self,
        weights: Weights,
        recipe: Recipe,
        provider: Provider,
        store: Store,
        taps: Sequence[str] = (),
        written: dict[str, Location] | None = None,
    ) -> None:
        """Starts an empty graph; `written` holds where tensors of earlier graphs of the package lie, by name, and gains ours."""
        self.recipe = recipe
        self.provider = provider
        self._weights = weights
        self._store = store
        self._written = {} if written is None else written
        self._taps = tuple(taps)
        self._scope: tuple[str, ...] = ()
        self._inputs: dict[str, ir.Value] = {}
        self._outputs: dict[str, ir.Value] = {}
        self._initializers: dict[str, ir.Value] = {}
        self._nodes: list[ir.Node] = []
        self._tapped: Counter[str] = Counter()

    @contextmanager
    def at(self, *scope: str | int) -> Iterator[None]:
        """Names inside the block start with this scope: `with g.at("layers", 3)` makes `q_proj` into `layers.3.q_proj`."""
        before = self._scope
        self._scope = (*before, *map(str, scope))
        try:
            yield
        finally:
            self._scope = before

    def name(self, leaf: str) -> str:
        """`leaf` with the scope in front."""
        return ".".join((*self._scope, leaf))

    def declare(self, ports: Iterable[Port]) -> None:
        """Makes graph inputs."""
        for port in ports:
            value = ir.val(port.name, dtype=DTYPES[port.dtype], shape=list(port.shape))
            self._inputs[port.name] = value

    def input(self, name: str) -> ir.Value:
        """A declared graph input."""
        return self._inputs[name]

    def output(self, port: Port, value: ir.Value) -> ir.Value:
        """Makes a value, or an activation if it has no type, a graph output as the port says; returns it in the port's dtype."""
        if DTYPES[port.dtype] != (value.dtype or DTYPES[self.provider.activation_dtype]):
            value = self.op("Cast", value, to=DTYPES[port.dtype])
        value.name = port.name
        value.type, value.shape = ir.TensorType(DTYPES[port.dtype]), ir.Shape(list(port.shape))
        self._outputs[port.name] = value
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; returns its value, or a tuple of values when `outputs` is more than one."""
        node = ir.node(
            op_type,
            list(inputs),
            attributes or None,
            domain=domain,
            num_outputs=outputs,
            name=self.name(f"{op_type}_{len(self._nodes)}"),
        )
        for i, value in enumerate(node.outputs):
            value.name = f"{node.name}.{i}" if outputs > 1 else node.name
        self._nodes.append(node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def inner(self, name: str, build: Callable[[], ir.Value | tuple[ir.Value, ...]]) -> ir.Graph:
        """A graph for a node that decides whether it runs; it sees the values around it.

        Args:
            name: the scope of what it holds.
            build: returns its outputs, or its only one; those without a type are activations.
        """
        outside, self._nodes = self._nodes, []
        try:
            with self.at(name):
                made = build()
            results = made if isinstance(made, tuple) else (made,)
            for result in results:
                result.type = result.type or ir.TensorType(DTYPES[self.provider.activation_dtype])
            return ir.Graph((), results, nodes=self._nodes, name=self.name(name))
        finally:
            self._nodes = outside

    def tap(self, leaf: str, value: ir.Value, kind: str = "") -> ir.Value:
        """Names a block's result by its scope; a name that a tap pattern matches becomes a graph output, float32 of any shape.

        `kind` stands before the scope for values that are no block's result, such as "input."; their names are there for patterns
        only. Where layers share a scope, the second use of a name is called name#1, and so on.
        """
        name = kind + self.name(leaf)
        uses = self._tapped[name]
        self._tapped[name] += 1
        matched = any(fnmatchcase(name, pattern) for pattern in self._taps)
        name = f"{name}#{uses}" if uses else name
        if not matched:
            if not kind and is_unnamed(value):
                value.name = name
        else:
            self.output(Port(name, "float32", tuple(f"{name}.{axis}" for axis in range(3))), self.op("Identity", value))
        return value

    def constant(self, array: np.ndarray, name: str | None = None) -> ir.Value:
        """A small constant kept inside the graph; equal unnamed constants are one."""
        key = name or f"constant.{array.dtype}.{list(array.shape)}.{array.ravel().tolist()}"
        if key not in self._initializers:
            self._initializers[key] = ir.val(key, const_value=ir.tensor(np.asarray(array, order="C"), name=key))
        return self._initializers[key]

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a scoped weight; for those that only some checkpoints of an architecture have."""
        return self._weights.has(self.name(name))

    def weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        """The checkpoint's tensor for a scoped name, still on disk."""
        return self._weights.get(self.name(name), shape)

    def adapt(self, projection: str, weights: Sequence[Weight]) -> tuple[ir.Value, ir.Value]:
        """The inputs through which adapters change a projection of these weights, by its absolute name: [k, rank], [rank, n]."""
        self._weights.updates.apply(projection, weights)
        n, k = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
        a, b = adapter_ports(projection, k, n, self.provider.activation_dtype)
        self.declare([a, b])
        return self.input(a.name), self.input(b.name)

    def stored(self, name: str, dtype: str, shape: Sequence[int], produce: Produce) -> ir.Value:
        """An initializer whose bytes go to the data file. `name` is absolute; a name stored before is reused, with its bytes."""
        if name in self._initializers:
            return self._initializers[name]
        if name not in self._written:
            self._written[name] = self._store.add(np.dtype(dtype), shape, produce)
        return self._external(name, dtype, shape, self._written[name])

    def reshaped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """A second initializer of another shape over the same bytes of the data file."""
        name = f"{value.name}.as_{'x'.join(map(str, shape))}"
        if name in self._initializers:
            return self._initializers[name]
        return self._over_the_bytes_of(value, name, shape)

    def unshared(self, value: ir.Value) -> ir.Value:
        """An initializer over the same bytes that no node reads yet."""
        first = str(value.name)
        names = chain([first], (f"{first}.{n}" for n in count(1)))
        name = next(name for name in names if name not in self._initializers or not self._initializers[name].uses())
        return value if name == first else self._over_the_bytes_of(value, name, value.shape or ())

    def finish(self, name: str) -> ir.Model:
        """The finished model."""
        graph = ir.Graph(
            list(self._inputs.values()),
            list(self._outputs.values()),
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": OPSET, CONTRIB: 1},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgelm")

    def finish_on(self, graph: ir.Graph) -> None:
        """Puts what was built into a graph whose values its nodes read and replace; the outputs become those declared here."""
        graph.inputs.extend(self._inputs.values())
        graph.extend(self._nodes)
        for value in self._initializers.values():
            graph.register_initializer(value)
        graph.outputs[:] = self._outputs.values()
        graph.opset_imports[CONTRIB] = 1
        graph.sort()

    def _over_the_bytes_of(self, value: ir.Value, name: str, shape: Iterable[Any]) -> ir.Value:
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            raise TypeError(f"{value.name} is not in the data file")
        location = (str(tensor.location), tensor.offset or 0, tensor.length or 0)
        return self._external(name, tensor.dtype.numpy().name, list(shape), location)

    def _external(self, name: str, dtype: str, shape: Sequence[int], location: Location) -> ir.Value:
        file, offset, length = location
        tensor = ir.ExternalTensor(Path(file), offset, length, DTYPES[dtype], shape=ir.Shape(list(shape)), name=name)
        self._initializers[name] = ir.val(name, dtype=DTYPES[dtype], shape=list(shape), const_value=tensor)
        return self._initializers[name]
