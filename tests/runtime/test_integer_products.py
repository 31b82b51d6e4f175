from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from edgelm import session
from edgelm.integer_products import PROBE, products_overflow
from edgelm.providers import PROVIDERS
from edgelm.session import Program

CPU = PROVIDERS["cpu"]


def probe(right: np.ndarray | None = None) -> bytes:
    """The graph; its right factor may be a constant."""
    left = ir.val("left", ir.DataType.UINT8, [4, 64])
    given = ir.val(
        "right", ir.DataType.INT8, [64, 32], const_value=None if right is None else ir.tensor(right, name="right")
    )
    node = ir.node("MatMulInteger", [left, given])
    product = node.outputs[0]
    product.name, product.type, product.shape = "product", ir.TensorType(ir.DataType.INT32), ir.Shape([4, 32])
    inputs, constants = ([left, given], []) if right is None else ([left], [given])
    graph = ir.Graph(inputs, [product], nodes=[node], initializers=constants, opset_imports={"": 21}, name="probe")
    return ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString(deterministic=True)


def test_the_file_is_what_this_module_makes() -> None:
    """`(files("edgelm") / "data" / PROBE).write_bytes(probe())` writes it anew."""
    assert (files("edgelm") / "data" / PROBE).read_bytes() == probe()


@pytest.mark.parametrize(("offset", "overflows"), [(0, False), (1, True)])
def test_products_are_compared_with_the_exact_ones(
    offset: int, overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        """A processor that is off by so much."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, _: object, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [feeds["left"].astype(np.int32) @ feeds["right"].astype(np.int32) - offset]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert products_overflow.__wrapped__(CPU.ort_name) is overflows


@pytest.mark.parametrize("overflows", [True, False])
def test_only_where_products_overflow_is_the_slower_kernel_asked_for(
    overflows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries: dict[str, str] = {}

    class Noted(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key: str, value: str) -> None:
            entries[key] = value
            super().add_session_config_entry(key, value)

    file = tmp_path / "probe.onnx"
    file.write_bytes(probe())
    monkeypatch.setattr(onnxruntime, "SessionOptions", Noted)
    monkeypatch.setattr(session, "products_overflow", lambda _: overflows)
    Program(file, CPU)
    assert (entries.get("session.x64quantprecision") == "1") is overflows
    assert entries.items() >= CPU.session_config.items()


def test_a_program_computes_exact_products_here(tmp_path: Path) -> None:
    """Whatever this processor is."""
    file = tmp_path / "probe.onnx"
    file.write_bytes(probe(np.full((64, 32), 127, np.int8)))
    (product,) = Program(file, CPU).run({"left": np.full((4, 64), 255, np.uint8)}, ["product"])
    assert (product == 255 * 127 * 64).all()
