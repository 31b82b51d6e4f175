"""The dtype of activations, which the provider decides: what is stored or computed otherwise passes here on its way in or out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgelm_export.graph import DTYPES, GraphBuilder


def as_activation(g: GraphBuilder, value: ir.Value, dtype: ir.DataType | None = None) -> ir.Value:
    """`value`, which has `dtype` or its own, in the dtype of activations. ONNX Runtime does this to a stored constant once, at load."""
    wanted = DTYPES[g.provider.activation_dtype]
    return value if (dtype or value.dtype) == wanted else g.op("Cast", value, to=wanted)


def as_float(g: GraphBuilder, value: ir.Value) -> ir.Value:
    """An activation in float32, for what 16 bits are too few for, or have no kernels."""
    return value if g.provider.activation_dtype == "float32" else g.op("Cast", value, to=ir.DataType.FLOAT)


def number(g: GraphBuilder, value: float) -> ir.Value:
    """A number in the dtype of activations."""
    return as_activation(g, g.constant(np.array(value, np.float32)))
