"""`quant_method: compressed-tensors` where the codes lie open: 8-bit floats, a scale for each tensor, row or block.

The format groups modules by patterns; a group's settings say which scales there may be, and a scale's shape says which
of them it is. Codes are multiplied in float32; the library rounds the product to the type of the scales.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from edgelm_export.checkpoint.quantized.fp8 import as_block
from edgelm_export.checkpoint.quantized.scales import BY_ROW, BY_TENSOR, Block, read_scaled
from edgelm_export.checkpoint.quantized.tensors import StoredTensors
from edgelm_export.config_reader import ConfigReader

_CODES = {"float-quantized": "float8_e4m3fn", "naive-quantized": "float8_e4m3fn"}  # by format
_STRATEGIES: Mapping[str, Block | None] = {"tensor": BY_TENSOR, "channel": BY_ROW, "block": None}
_RUNTIME_KEYS = ("ignore", "kv_cache_scheme", "quantization_status", "global_compression_ratio", "version")
_OBSERVER_KEYS = ("group_size", "actorder", "observer", "observer_kwargs", "scale_dtype", "zp_dtype")


def read_compressed_tensors(config: ConfigReader, tensors: StoredTensors) -> str:
    """Puts codes and scales together; says how the weights are stored."""
    for key in _RUNTIME_KEYS:
        config.get(key)
    dtype = _CODES[config.one_of("format", _CODES)]
    for key in ("sparsity_config", "moe_sparsity_config", "transform_config"):
        if config.get(key):
            config.problem(f"{key} is not supported")
    blocks = _blocks(config)
    tensors.leave_out_runtime_scales()
    read_scaled(tensors, dtype, blocks, ("_scale",))
    return f"compressed-tensors fp8 ({' or '.join(map(str, blocks))})"


def _blocks(config: ConfigReader) -> list[Block]:
    """The blocks of all groups, each once."""
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        config.problem("config_groups is missing or no object of groups")
        return [BY_TENSOR]
    blocks: list[Block] = []
    for name, group in cast(dict[str, Any], groups).items():
        where = f"config_groups {name!r}"
        if not isinstance(group, dict):
            config.problem(f"{where} is no object")
            continue
        reader = ConfigReader(cast(dict[str, Any], group))
        for key in ("targets", "input_activations", "output_activations"):
            reader.get(key)
        if reader.get("format") is not None:
            reader.one_of("format", _CODES)
        if reader.get("weights") is not None:
            blocks.append(_weights_block(reader))
        config.absorb(reader, where)
    blocks = list(dict.fromkeys(blocks)) or [BY_TENSOR]
    if len([block for block in blocks if block not in (BY_TENSOR, BY_ROW)]) > 1:
        config.problem("config_groups have blocks of several sizes, and nothing but patterns says which is whose")
    return blocks


def _weights_block(group: ConfigReader) -> Block:
    """What shares a scale in the weights of one group."""
    settings = group.get("weights")
    if not isinstance(settings, dict):
        group.problem(f"weights is {settings!r}, expected an object")
        return BY_TENSOR
    weights = ConfigReader(cast(dict[str, Any], settings))
    for key in _OBSERVER_KEYS:
        weights.get(key)
    weights.require("num_bits", 8)
    weights.require("type", "float")
    weights.require("symmetric", True)
    weights.require("dynamic", False)
    block = _STRATEGIES[weights.one_of("strategy", _STRATEGIES, "tensor")]
    size = weights.get("block_structure")
    if block is None:
        if isinstance(size, str) and (found := re.fullmatch(r"(\d{1,9})x(\d{1,9})", size)):  # how it was written first
            size = [int(found[1]), int(found[2])]
        if (block := as_block(size)) is None:
            weights.problem(f"block_structure is {size!r}, expected two whole numbers from 1")
    group.absorb(weights, "weights")
    return block or BY_TENSOR
