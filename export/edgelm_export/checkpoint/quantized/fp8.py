"""`quant_method: fp8`: 8-bit floats with a float scale for each block of 128 x 128 (DeepSeek-V3), or for each tensor.

DeepSeek calls the scale `weight_scale_inv`, others call it `weight_scale`; either is what a code is multiplied by.
"""

from __future__ import annotations

from typing import Any, cast

from edgelm_export.checkpoint.quantized.scales import BY_TENSOR, Block, read_scaled
from edgelm_export.checkpoint.quantized.tensors import StoredTensors
from edgelm_export.config_reader import ConfigReader

_USUAL = Block(128, 128)
_CODES = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
# How a runtime quantizes activations, and which modules it leaves out, which the tensors say themselves.
_RUNTIME_KEYS = ("activation_scheme", "modules_to_not_convert", "modules_to_convert", "ignored_layers", "dequantize")


def read_fp8(config: ConfigReader, tensors: StoredTensors) -> str:
    """Puts codes and scales together; says how the weights are stored."""
    for key in _RUNTIME_KEYS:
        config.get(key)
    config.require("scale_fmt", "float", "ue8m0")  # powers of two are stored as float32 too
    config.require("expert_dtype", "fp8")
    dtype = _CODES[config.one_of("fmt", _CODES, "e4m3")]
    blocks = _blocks(config)
    tensors.leave_out_runtime_scales()
    read_scaled(tensors, dtype, blocks, ("_scale_inv", "_scale"))
    return f"fp8 ({' or '.join(map(str, blocks))})"


def _blocks(config: ConfigReader) -> list[Block]:
    """What the config says; where it says nothing, transformers means 128 x 128 and vLLM means whole tensors."""
    if "weight_block_size" not in config:
        return [BY_TENSOR, _USUAL]
    size = config.get("weight_block_size")
    if size is None:
        return [BY_TENSOR]
    if (block := as_block(size)) is None:
        config.problem(f"weight_block_size is {size!r}, expected two whole numbers from 1")
    return [block or _USUAL]


def as_block(size: Any) -> Block | None:
    """Rows and columns as a config writes them; None where they are no such thing."""
    numbers = cast(list[Any], size) if isinstance(size, list) else []
    if len(numbers) != 2 or not all(type(number) is int and number >= 1 for number in numbers):
        return None
    return Block(*numbers)
