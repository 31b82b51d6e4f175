"""Problems in, the graph that solves them and says how far it is from their answers out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgelm.known_answers import NOTHING
from edgelm_export.graph import CONTRIB, DTYPES, IR_VERSION, OPSET
from edgelm_export.known_answers.problems import Array, Case, Problem, Setting


def problem_graph(problems: Mapping[str, tuple[Setting, Problem]], dtype: str = "float32") -> bytes:
    """A graph with an output a problem: the largest error of its cases, each max |op(inputs) - answer| / max |answer|.

    The operators' own floats are of `dtype`.
    """
    building = _Building(DTYPES[dtype])
    outputs = [building.error(name, setting, problem) for name, (setting, problem) in problems.items()]
    graph = ir.Graph(
        [building.nothing],
        outputs,
        nodes=building.nodes,
        initializers=building.initializers,
        opset_imports={"": OPSET, CONTRIB: 1},
        name="probes",
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="edgelm")
    return ir.to_proto(model).SerializeToString(deterministic=True)


class _Building:
    def __init__(self, floats: ir.DataType) -> None:
        self._floats = floats
        self.nothing = ir.val(NOTHING, dtype=ir.DataType.FLOAT, shape=[])
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def error(self, name: str, setting: Setting, problem: Problem) -> ir.Value:
        errors = [
            self._error_of(f"{name}.{i}", setting, problem.attributes, case) for i, case in enumerate(problem.cases)
        ]
        error = self._op("Max", f"{name}.errors", errors)
        error.name, error.type, error.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        return error

    def _error_of(self, name: str, setting: Setting, attributes: Mapping[str, Any], case: Case) -> ir.Value:
        inputs = [self._constant(f"{name}.input_{i}", self._narrowed(array)) for i, array in enumerate(case.inputs)]
        while inputs[-1] is None:
            inputs.pop()
        fed = self._narrowed(case.inputs[case.fed])
        nothing = self._op("Cast", f"{name}.nothing", [self.nothing], to=DTYPES[np.asarray(fed).dtype.name])
        inputs[case.fed] = self._op("Add", f"{name}.fed", [inputs[case.fed], nothing])
        node = ir.node(
            setting.op_type,
            inputs,
            dict(attributes) or None,
            domain=setting.domain,
            num_outputs=setting.outputs,
            name=name,
        )
        self.nodes.append(node)
        for i, value in enumerate(node.outputs):
            value.name = f"{name}.output_{i}"
        answer = self._constant(f"{name}.answer", case.answer.astype(np.float32))
        found = self._op("Cast", f"{name}.found", [node.outputs[0]], to=ir.DataType.FLOAT)
        difference = self._op("Sub", f"{name}.difference", [found, answer])
        worst = self._op("ReduceMax", f"{name}.worst", [self._op("Abs", f"{name}.absolute", [difference])], keepdims=0)
        scale = self._constant(f"{name}.scale", np.array(1 / np.abs(case.answer).max(), np.float32))
        return self._op("Mul", f"{name}.error", [worst, scale])

    def _narrowed(self, array: Array | None) -> Array | None:
        return array if array is None or array.dtype != np.float32 else array.astype(self._floats.numpy())

    def _constant(self, name: str, array: Array | None) -> ir.Value | None:
        if array is None:
            return None
        self.initializers.append(ir.val(name, const_value=ir.tensor(np.asarray(array, order="C"), name=name)))
        return self.initializers[-1]

    def _op(self, op_type: str, name: str, inputs: list[ir.Value] | list[ir.Value | None], **settings: Any) -> ir.Value:
        self.nodes.append(ir.node(op_type, inputs, settings or None, name=name))
        self.nodes[-1].outputs[0].name = name
        return self.nodes[-1].outputs[0]
