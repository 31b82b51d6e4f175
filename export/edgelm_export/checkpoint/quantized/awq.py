"""`quant_method: awq`, version "gemm": four bits packed along the rows, eight rows to a word in an order of its own, all of it turned.

    X.qweight  int32 [k, n / 8]         bits 0-3 of a word: row 0 of its eight, then rows 2, 4, 6, 1, 3, 5, 7
    X.qzeros   int32 [groups, n / 8]    zero points, in the same order
    X.scales   float [groups, n]        w = (code - zero point) * scale

The layout is that of AutoAWQ's `WQLinear_GEMM`.
"""

from __future__ import annotations

import numpy as np

from edgelm_export.checkpoint.base import Bytes, LazyTensor
from edgelm_export.checkpoint.quantized.integers import (
    SCALE_TYPES,
    WORD_TYPES,
    Transposed,
    columns,
    read_group_size,
    unpacked,
)
from edgelm_export.checkpoint.quantized.tensors import Part, StoredTensors
from edgelm_export.config_reader import ConfigReader

_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where in a word row 0, 1, 2 ... of its eight is found
_BITS, _ROWS = 4, 8
_RUNTIME_KEYS = (
    *("modules_to_not_convert", "do_fuse", "fuse_max_seq_len", "modules_to_fuse", "exllama_config", "backend"),
    "pre_quantized",
)


def read_awq(config: ConfigReader, tensors: StoredTensors) -> str:
    """Puts codes, zero points and scales together; says how the weights are stored."""
    for key in _RUNTIME_KEYS:
        config.get(key)
    config.require("bits", _BITS)
    config.require("w_bit", _BITS)
    config.require("zero_point", True)
    if str(config.get("version") or "gemm").lower() != "gemm":
        config.problem(f"version {config.get('version')!r} is not supported (only 'gemm')")
    group_size = read_group_size(config)
    for name, words in tensors.matrices(".qweight", WORD_TYPES):
        k, n = words.shape[0], words.shape[1] * _ROWS
        groups = -(-k // (group_size or k))
        parts = tensors.parts(
            name,
            Part(".qweight", WORD_TYPES, words.shape),
            Part(".qzeros", WORD_TYPES, (groups, words.shape[1])),
            Part(".scales", SCALE_TYPES, (groups, n)),
        )
        if parts is not None:
            weight = _weight(f"{name}.weight", parts, group_size or k)
            tensors.put(f"{name}.weight", "awq 4 bits", (n, k), weight.grid(), parts.values())
    for leaf in (".qzeros", ".scales"):
        tensors.find_stray(leaf, ".qweight")
    return f"awq (4 bits, one scale {'a row' if group_size is None else f'{group_size} columns'}, zero points)"


def _weight(name: str, parts: dict[str, LazyTensor], group_size: int) -> Transposed:
    def rows(part: LazyTensor, start: int, stop: int) -> Bytes:
        """[columns or groups, rows]."""
        first, last = start // _ROWS, -(-stop // _ROWS)
        codes = unpacked(columns(part, "<u4", first, last).view(np.uint8), _BITS)
        placed = codes.reshape(len(codes), -1, _ROWS)[..., _PLACES].reshape(len(codes), -1)
        return placed[:, start - first * _ROWS : stop - first * _ROWS]

    def codes(start: int, stop: int) -> Bytes:
        return np.ascontiguousarray(rows(parts[".qweight"], start, stop).T)

    def zero_points(start: int, stop: int) -> Bytes:
        return rows(parts[".qzeros"], start, stop)

    return Transposed(name, _BITS, group_size, None, codes, zero_points, parts[".scales"])
