"""Whether integer products of this ONNX Runtime are exact on this processor, found out by computing one."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np

# left uint8 [4, 64] times right int8 [64, 32] -> product int32 [4, 32]; tests/runtime/test_integer_products.py makes it.
PROBE = "integer_product.onnx"
LARGEST = 255, 127


@cache
def products_overflow(ort_name: str) -> bool:
    """Whether uint8 times int8 is summed up in too few bits, as ONNX Runtime does on processors with AVX2 and no VNNI.

    Args:
        ort_name: the execution provider, as ONNX Runtime calls it.
    """
    import onnxruntime  # lazy, so that `import edgelm` stays light

    graph = (files("edgelm") / "data" / PROBE).read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=[ort_name])
    left, right = np.full((4, 64), LARGEST[0], np.uint8), np.full((64, 32), LARGEST[1], np.int8)
    (product,) = session.run(None, {"left": left, "right": right})
    return bool((np.asarray(product) != left.astype(np.int32) @ right).any())
