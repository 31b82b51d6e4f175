"""Random settings and shapes of quantized checkpoints: read or refused, and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint import Checkpoint, LazyTensor
from edgelm_export.checkpoint.base import Array
from edgelm_export.checkpoint.quantized import FORMATS, dequantized
from tests.export.quantized_checkpoints import FP8

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_BLOCKS = st.sampled_from([[4, 8], [1, 1], [1, 1 << 62], [1 << 62, 3], None])
_DTYPES: Mapping[str, Any] = {
    "float8_e4m3fn": FP8,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float32": np.float32,
    "uint8": np.uint8,
    "int8": np.int8,
    "int32": np.int32,
    "uint32": np.uint32,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
}
_SHAPES = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
Kind = tuple[str, tuple[int, ...]]  # the dtype and shape of a tensor


@st.composite
def _settings(draw: st.DrawFn, method: str) -> dict[str, Any]:
    """Settings of the method, of which at most one was replaced by anything at all."""
    block = draw(_BLOCKS)
    chosen: dict[str, Any] = {"quant_method": method}
    if method == "fp8":
        chosen |= {"fmt": "e4m3", "weight_block_size": block, "scale_fmt": "float", "expert_dtype": "fp8"}
    if method == "compressed-tensors":
        strategy = draw(st.sampled_from(["tensor", "channel", "block"]))
        weights = {"num_bits": 8, "type": "float", "strategy": strategy, "block_structure": block}
        weights |= draw(st.dictionaries(st.sampled_from(list(weights)), _JSON, max_size=1))
        chosen |= {"format": "float-quantized", "config_groups": {"g": {"weights": weights}}}
        if draw(st.booleans()):
            weights |= {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 8}
            chosen["format"] = "pack-quantized"
    if method in ("gptq", "awq"):
        chosen |= {"bits": 4, "group_size": draw(st.sampled_from([8, -1, 1 << 30])), "desc_act": draw(st.booleans())}
    if method == "mlx":
        chosen = {"bits": 4, "group_size": 32}
    if method == "bitsandbytes":
        chosen |= {"load_in_8bit": True, "load_in_4bit": False}
    keys = [key for key in chosen if key != "quant_method"] or ["modules_to_not_convert"]
    return chosen | draw(st.dictionaries(st.sampled_from(keys), _JSON, max_size=1))


@st.composite
def _kinds(draw: st.DrawFn, method: str) -> dict[str, Kind]:
    """A weight and its scale, mostly such as the method stores, of which at most one became anything else."""
    shape = tuple(draw(st.lists(st.integers(1, 17), min_size=2, max_size=3)))
    rows, columns = draw(st.sampled_from([(4, 8), (1, 1), (1, 99), (99, 3), (99, 99)]))
    grid = (*shape[:-2], -(-shape[-2] // rows), -(-shape[-1] // columns))
    names = ["a.weight", "a.weight_scale"]
    kinds: dict[str, Kind] = {"a.weight": ("float8_e4m3fn", shape), "a.weight_scale": ("float32", grid)}
    if method == "mxfp4":
        names = ["up_blocks", "up_scales", "up"]
        kinds = {"up_blocks": ("uint8", (2, *shape[-2:], 16)), "up_scales": ("uint8", (2, *shape[-2:]))}
    if method in ("gptq", "awq"):
        k, n = (8, 4) if method == "gptq" else (32, 1)
        kinds = {"a.qweight": ("int32", (k // 2 if method == "gptq" else k, n)), "a.qzeros": ("int32", (4, 1))}
        kinds |= {"a.scales": ("float32", (4, 8 if method == "awq" else n)), "a.g_idx": ("int32", (32,))}
    if method == "mlx":
        kinds = {"a.weight": ("uint32", (shape[0], 4)), "a.scales": ("float32", (shape[0], 1))}
        kinds["a.biases"] = kinds["a.scales"]
    if method == "bitsandbytes":
        kinds = {"a.weight": ("int8", shape[:2]), "a.SCB": ("float32", shape[:1])}
    if method not in ("fp8", "compressed-tensors", "mxfp4"):
        names = list(kinds)
    anything = st.tuples(st.sampled_from(list(_DTYPES)), _SHAPES)
    return kinds | draw(st.dictionaries(st.sampled_from(names), anything, max_size=1))


def _in_memory(name: str, dtype: str, shape: tuple[int, ...]) -> LazyTensor:
    values = np.ones(shape, _DTYPES[dtype]).reshape(shape[0] if shape else 1, math.prod(shape[1:]))
    return LazyTensor(
        name,
        dtype,
        shape,
        lambda start, stop: values[start:stop].astype(np.float32),
        lambda start, stop: values[start:stop].view(np.uint8),
    )


def _dequantized(checkpoint: Checkpoint) -> Checkpoint | None:
    """None where it was refused, in a message that a terminal can show; no other exception may come."""
    try:
        return dequantized(checkpoint)
    except CheckpointError as error:
        message = str(error)
    assert message.isprintable()
    return None


def _read(tensor: LazyTensor) -> Array | None:
    """None where what is stored contradicts the settings, as a message says."""
    try:
        return tensor.read()
    except CheckpointError as error:
        message = str(error)
    assert message.isprintable()
    return None


@pytest.mark.parametrize("method", FORMATS)
def test_random_settings_and_shapes_are_read_or_refused(method: str) -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(chosen=_settings(method), kinds=_kinds(method))
    def check(chosen: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
        tensors = {name: _in_memory(name, *kind) for name, kind in kinds.items()}
        stored = Checkpoint("hf", {"quantization_config": chosen}, {}, tensors, (Path("config.json"),), dict)
        if (checkpoint := _dequantized(stored)) is None:
            outcomes["refused"] += 1
            return
        outcomes["read"] += len(checkpoint.tensors) < len(tensors)
        for tensor in checkpoint.tensors.values():
            if (whole := _read(tensor)) is None:
                continue
            assert (whole.shape, whole.dtype) == (tensor.shape, np.float32)
            np.testing.assert_array_equal(tensor.read(0, 1), whole[:1] if tensor.shape else whole)

    check()
    assert min(outcomes["read"], outcomes["refused"]) > 10, outcomes
