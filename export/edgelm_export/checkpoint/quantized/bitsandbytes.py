"""`quant_method: bitsandbytes`: 4-bit codes of a table of values (nf4, fp4), or int8 rows; read as the floats they stand for.

X.weight                    uint8 [n * k / 2, 1]    codes of the flattened weight, the first of two in the high half
X.weight.quant_map          float [16]              w = quant_map[code] * absmax, one absmax for each `blocksize` values
X.weight.absmax             float [blocks], or with double quantization uint8:
                            absmax = nested_quant_map[code] * nested_absmax[block / nested_blocksize] + nested_offset
X.weight.quant_state.bitsandbytes__nf4      JSON in bytes: blocksize, shape, the nested settings

X.weight, X.SCB             int8 [n, k], float [n]  w = code * SCB / 127
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from edgelm_export.checkpoint.base import Array, LazyTensor
from edgelm_export.checkpoint.files import shown
from edgelm_export.checkpoint.quantized.tensors import Part, StoredTensors
from edgelm_export.config_reader import ConfigReader

_KINDS = ("nf4", "fp4")
_STATE = ".weight.quant_state.bitsandbytes__"
_RUNTIME_KEYS = (
    *("llm_int8_threshold", "llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight"),
    *("bnb_4bit_compute_dtype", "bnb_4bit_use_double_quant", "_load_in_4bit", "_load_in_8bit"),
)
_MAX_STATE_BYTES = 1 << 16
_MAX_BLOCK = 1 << 16  # the library's largest is 4,096
_INT8_STEP = np.float32(7.874015718698502e-3)  # 1 / 127


def read_bitsandbytes(config: ConfigReader, tensors: StoredTensors) -> str:
    """Puts codes and scales together; says how the weights are stored."""
    for key in _RUNTIME_KEYS:
        config.get(key)
    config.require("bnb_4bit_quant_storage", "uint8")
    config.one_of("bnb_4bit_quant_type", dict.fromkeys(_KINDS), "fp4")
    four, eight = config.flag("load_in_4bit"), config.flag("load_in_8bit")
    if four == eight:
        config.problem("one of load_in_4bit and load_in_8bit must be true")
    if eight:
        _read_int8(tensors)
        return "bitsandbytes int8 (one scale a row)"
    kinds = {
        kind
        for kind in _KINDS
        for name, state in tensors.ending(_STATE + kind)
        if _read_4bit(tensors, name, kind, state)
    }
    for leaf in (".weight.absmax", ".weight.quant_map"):
        for name, part in tensors.ending(leaf):
            if not any(name + _STATE + kind in tensors.stored for kind in _KINDS):
                tensors.problem(f"{shown(part.name)} is of no use: there is no {shown(f'{name}{_STATE}...')}")
    return f"bitsandbytes {' and '.join(sorted(kinds))}"


def _read_int8(tensors: StoredTensors) -> None:
    for name, codes in tensors.ending(".weight"):
        if codes.dtype != "int8":
            continue
        shape = codes.shape if len(codes.shape) == 2 else (1, 1)
        parts = tensors.parts(
            name,
            Part(".weight", ("int8",), shape),
            Part(".SCB", ("float32",), shape[:1]),
            Part(".weight_format", ("uint8",), (), ((1,),), optional=True),
        )
        if parts is not None:
            rows = partial(_int8_rows, codes, parts[".SCB"])
            nbytes = codes.nbytes + parts[".SCB"].nbytes
            tensors.replace(parts.values(), LazyTensor(codes.name, "int8", shape, rows, nbytes=nbytes))
    tensors.find_stray(".SCB", ".weight")


def _int8_rows(codes: LazyTensor, scale: LazyTensor, start: int, stop: int) -> Array:
    values = codes.read(start, stop)
    values *= scale.read(start, stop)[:, None]
    values *= _INT8_STEP
    return values


@dataclass(frozen=True)
class _State:
    """What is stored as JSON: the weight's shape, and what the blocks are."""

    shape: tuple[int, int]
    block: int
    nested_block: int | None
    nested_offset: np.float32


def _read_4bit(tensors: StoredTensors, name: str, kind: str, stored: LazyTensor) -> bool:
    state = _state(stored)
    if isinstance(state, str):
        tensors.problem(f"{shown(stored.name)} {state}")
        return False
    values = math.prod(state.shape)
    blocks = -(-values // state.block)
    nested = state.nested_block
    expected = [
        Part(".weight", ("uint8",), (-(-values // 2), 1)),
        Part(".weight.absmax", ("float32",) if nested is None else ("uint8",), (blocks,)),
        Part(".weight.quant_map", ("float32",), (16,)),
    ]
    if nested is not None:
        expected += [
            Part(".weight.nested_absmax", ("float32",), (-(-blocks // nested),)),
            Part(".weight.nested_quant_map", ("float32",), (256,)),
        ]
    parts = tensors.parts(name, *expected)
    if parts is None:
        return False
    held = [*parts.values(), stored]
    nbytes = sum(part.nbytes for part in held)
    tensors.replace(held, LazyTensor(f"{name}.weight", kind, state.shape, partial(_rows, parts, state), nbytes=nbytes))
    return True


def _state(stored: LazyTensor) -> _State | str:
    """The settings, or what is wrong with them."""
    if stored.dtype != "uint8" or len(stored.shape) != 1 or not 0 < stored.nbytes <= _MAX_STATE_BYTES:
        return f"is {stored.dtype} {list(stored.shape)}, expected a little JSON in uint8"
    try:
        raw: Any = json.loads(stored.read_raw().tobytes())
    except (ValueError, RecursionError):
        return "is no JSON (what only the headers were fetched of cannot be inspected)"
    if not isinstance(raw, dict):
        return "is no JSON object"
    state = cast(dict[str, Any], raw)
    shape, block = state.get("shape"), state.get("blocksize")
    sizes = _sizes(shape, 1 << 31) if isinstance(shape, list) else []
    blocks = _sizes([block, *([state["nested_blocksize"]] if "nested_blocksize" in state else [])], _MAX_BLOCK)
    if len(sizes) != 2 or not blocks:
        return "has no shape [rows, columns], blocksize and nested_blocksize that could be true"
    offset = state.get("nested_offset", 0.0)
    if not isinstance(offset, float):
        return f"has the nested_offset {offset!r}, expected a number"
    return _State((sizes[0], sizes[1]), blocks[0], blocks[1] if len(blocks) > 1 else None, np.float32(offset))


def _sizes(values: Sequence[Any], most: int) -> list[int]:
    """The values, if all are whole numbers from 1 to `most`; else none."""
    return [*values] if all(type(value) is int and 0 < value <= most for value in values) else []


def _rows(parts: Mapping[str, LazyTensor], state: _State, start: int, stop: int) -> Array:
    k = state.shape[1]
    low, high = start * k, stop * k  # in values of the flattened weight
    raw = parts[".weight"].read_raw(low // 2, -(-high // 2)).reshape(-1)
    codes = np.stack([raw >> np.uint8(4), raw & np.uint8(15)], axis=-1).reshape(-1)[low % 2 :][: high - low]
    first = low // state.block
    sizes = _absmax(parts, state, first, -(-high // state.block))
    values = parts[".weight.quant_map"].read()[codes]
    with np.errstate(all="ignore"):  # whoever uses the weights judges NaN and infinity
        values *= np.repeat(sizes, state.block)[low - first * state.block :][: len(values)]
    return values.reshape(stop - start, k)


def _absmax(parts: Mapping[str, LazyTensor], state: _State, start: int, stop: int) -> Array:
    """The scales of the blocks from a start to a stop."""
    stored = parts[".weight.absmax"]
    if state.nested_block is None:
        return stored.read(start, stop)
    codes = stored.read_raw(start, stop).reshape(-1)
    first = start // state.nested_block
    outer = parts[".weight.nested_absmax"].read(first, -(-stop // state.nested_block))
    of_block = np.arange(start, stop) // state.nested_block - first
    return parts[".weight.nested_quant_map"].read()[codes] * outer[of_block] + state.nested_offset
