"""`quant_method: compressed-tensors`: 8-bit floats or integers, a scale for each tensor, row, group of columns or block.

The format sorts modules into groups by patterns; a group's settings say which scales there may be, and a scale's shape says which
of them it is. Codes are multiplied in float32; the library rounds the product to the type of the scales.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from edgelm_export.checkpoint.quantized.compressed_integers import Integers, integers_setting, read_integers
from edgelm_export.checkpoint.quantized.fp8 import as_block
from edgelm_export.checkpoint.quantized.scales import BY_ROW, BY_TENSOR, Block, read_scaled
from edgelm_export.checkpoint.quantized.tensors import StoredTensors
from edgelm_export.config_reader import ConfigReader

# By format, the types that its codes may have.
_FORMATS: Mapping[str, tuple[str, ...]] = {
    "float-quantized": ("float",),
    "naive-quantized": ("float", "int"),
    "int-quantized": ("int",),
    "pack-quantized": ("int",),
}
_STRATEGIES: Mapping[str, Block | None] = {"tensor": BY_TENSOR, "channel": BY_ROW, "block": None}
_RUNTIME_KEYS = ("ignore", "kv_cache_scheme", "quantization_status", "global_compression_ratio", "version")
_OBSERVER_KEYS = ("observer", "observer_kwargs", "scale_dtype", "zp_dtype")
Scheme = Block | Integers


def read_compressed_tensors(config: ConfigReader, tensors: StoredTensors) -> str:
    """Puts codes and scales together; says how the weights are stored."""
    for key in _RUNTIME_KEYS:
        config.get(key)
    usual = config.one_of("format", {**_FORMATS, "mixed-precision": ()})
    for key in ("sparsity_config", "moe_sparsity_config", "transform_config"):
        if config.get(key):
            config.problem(f"{key} is not supported")
    schemes = _schemes(config, usual)
    blocks = [scheme for scheme in schemes if isinstance(scheme, Block)]
    integers = [scheme for scheme in schemes if isinstance(scheme, Integers)]
    if blocks and integers:
        config.problem("config_groups hold integers and floats, and nothing but patterns says which is whose")
    tensors.leave_out_runtime_scales()
    if integers:
        if len(integers) > 1:
            config.problem("config_groups have integers of several kinds, and nothing but patterns says which is whose")
        read_integers(tensors, integers[0])
        return f"compressed-tensors {integers[0]}"
    if len([block for block in blocks if block not in (BY_TENSOR, BY_ROW)]) > 1:
        config.problem("config_groups have blocks of several sizes, and nothing but patterns says which is whose")
    read_scaled(tensors, "float8_e4m3fn", blocks or [BY_TENSOR], ("_scale",))
    return f"compressed-tensors fp8 ({' or '.join(map(str, blocks))})"


def _schemes(config: ConfigReader, usual: str) -> list[Scheme]:
    """How the weights of the groups are stored, each way once."""
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        config.problem("config_groups is missing or no object of groups")
        return []
    schemes: list[Scheme] = []
    for name, group in cast(dict[str, Any], groups).items():
        where = f"config_groups {name!r}"
        if not isinstance(group, dict):
            config.problem(f"{where} is no object")
            continue
        reader = ConfigReader(cast(dict[str, Any], group))
        for key in ("targets", "input_activations", "output_activations"):
            reader.get(key)
        form = usual if reader.get("format") is None and usual in _FORMATS else reader.one_of("format", _FORMATS)
        if reader.get("weights") is not None:
            schemes.append(_weights_scheme(reader, form))
        config.absorb(reader, where)
    return list(dict.fromkeys(schemes))


def _weights_scheme(group: ConfigReader, form: str) -> Scheme:
    """How the weights of one group are stored."""
    settings = group.get("weights")
    if not isinstance(settings, dict):
        group.problem(f"weights is {settings!r}, expected an object")
        return BY_TENSOR
    weights = ConfigReader(cast(dict[str, Any], settings))
    for key in _OBSERVER_KEYS:
        weights.get(key)
    weights.require("dynamic", False)
    kind = weights.one_of(
        "type", dict.fromkeys(_FORMATS[form]), _FORMATS[form][0] if len(_FORMATS[form]) == 1 else None
    )
    scheme = _floats_block(weights) if kind == "float" else integers_setting(weights, packed=form == "pack-quantized")
    group.absorb(weights, "weights")
    return scheme


def _floats_block(weights: ConfigReader) -> Block:
    """What shares a scale among floats."""
    for key in ("group_size", "actorder"):
        weights.get(key)
    weights.require("num_bits", 8)
    weights.require("symmetric", True)
    block = _STRATEGIES[weights.one_of("strategy", _STRATEGIES, "tensor")]
    size = weights.get("block_structure")
    if block is None:
        if isinstance(size, str) and (found := re.fullmatch(r"(\d{1,9})x(\d{1,9})", size)):  # how it was written first
            size = [int(found[1]), int(found[2])]
        if (block := as_block(size)) is None:
            weights.problem(f"block_structure is {size!r}, expected two whole numbers from 1")
    return block or BY_TENSOR
