"""Prints schemas.txt: what operators with kernels for CUDA take, as an installed onnxruntime-gpu says.

python tests/gpu/list_schemas.py > tests/gpu/schemas.txt
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.kernel_rules import OPSET, SCHEMAS, kernels


def schemas() -> list[str]:
    """One line an operator: domain, name, attributes with their type and default (or !, where they are required), inputs."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    newest: dict[tuple[str, str], Any] = {}
    for schema in state.get_all_operator_schema():
        key = (schema.domain, schema.name)
        if key not in kernels() or (not schema.domain and schema.since_version > OPSET):
            continue
        if key not in newest or newest[key].since_version < schema.since_version:
            newest[key] = schema
    return [_line(newest[key]) for key in sorted(newest)]


def _line(schema: Any) -> str:
    attributes = [_attribute(name, schema.attributes[name]) for name in sorted(schema.attributes)]
    inputs = [entry.name + ("..." if "Variadic" in str(entry.option) else "") for entry in schema.inputs]
    return " ".join([schema.domain or "ai.onnx", schema.name, *attributes, "|", *inputs])


def _attribute(name: str, attribute: Any) -> str:
    import onnx

    kind = str(attribute.type).removeprefix("AttrType.").lower()
    if attribute.required:
        return f"{name}={kind}!"
    default = onnx.AttributeProto.FromString(attribute._default_value)
    values = {"int": str(default.i), "float": str(default.f), "string": default.s.decode()}
    return f"{name}={kind}" + (f":{values[kind]}" if attribute._default_value and kind in values else "")


if __name__ == "__main__":
    print("\n".join(line for line in SCHEMAS.read_text(encoding="utf-8").splitlines() if line.startswith("#")))
    print("\n".join(schemas()))
