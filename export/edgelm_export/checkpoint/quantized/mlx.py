"""MLX's affine quantization: codes packed along the columns, a scale and a bias for each group of columns.

    X.weight  uint32 [n, k * bits / 32]    column 0, 1, 2 ... from the lowest bits on; 3, 5 and 6 bits run across words
    X.scales  float [n, k / group_size]    w = code * scale + bias
    X.biases  float [n, k / group_size]

The settings stand in config.json under `quantization`; besides the usual bits and group_size they may name modules with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from edgelm_export.checkpoint.base import Codes, Grid, LazyTensor
from edgelm_export.checkpoint.quantized.integers import SCALE_TYPES, WORD_TYPES, unpacked
from edgelm_export.checkpoint.quantized.tensors import Part, StoredTensors
from edgelm_export.config_reader import ConfigReader

_BITS = (2, 3, 4, 5, 6, 8)
_GROUP_SIZES = (32, 64, 128)
Setting = tuple[int, int]  # bits, group_size


def is_mlx(settings: Any) -> bool:
    """Whether settings without a `quant_method` are MLX's."""
    return isinstance(settings, Mapping) and "bits" in settings and "group_size" in settings


def read_mlx(config: ConfigReader, tensors: StoredTensors) -> str:
    """Puts codes, scales and biases together; says how the weights are stored."""
    modules = {name: config.get(name) for name in config.names() if f"{name}.weight" in tensors.stored}
    usual = _setting(config)
    found: set[Setting] = set()
    for name, scales in tensors.matrices(".scales", SCALE_TYPES):
        own = modules.get(name)
        bits, group_size = usual
        if isinstance(own, Mapping):
            inner = ConfigReader(cast(dict[str, Any], own))
            bits, group_size = _setting(inner, usual)
            config.absorb(inner, name)
        shape = scales.shape
        n, k = shape[0], shape[1] * group_size
        parts = tensors.parts(
            name,
            Part(".weight", WORD_TYPES, (n, k * bits // 32)),
            Part(".scales", SCALE_TYPES, shape),
            Part(".biases", SCALE_TYPES, shape),
        )
        if parts is not None:
            found.add((bits, group_size))
            read = partial(_read, parts, bits)
            grid = Grid(bits, group_size, 0, True, scales.dtype, read)
            tensors.put(f"{name}.weight", f"mlx {bits} bits", (n, k), grid, parts.values())
    tensors.find_stray(".biases", ".scales")
    each = " or ".join(f"{bits} bits, one scale and bias {size} columns" for bits, size in sorted(found or {usual}))
    return f"mlx affine ({each})"


def _setting(config: ConfigReader, usual: Setting | None = None) -> Setting:
    config.require("mode", "affine")
    bits = config.size("bits", usual and usual[0])
    group_size = config.size("group_size", usual and usual[1])
    for key, value, known in (("bits", bits, _BITS), ("group_size", group_size, _GROUP_SIZES)):
        if value not in known:
            config.problem(f"{key} {value} is not supported (known: {', '.join(map(str, known))})")
    return (bits, group_size) if bits in _BITS and group_size in _GROUP_SIZES else (4, 32)


def _read(parts: Mapping[str, LazyTensor], bits: int, start: int, stop: int) -> Codes:
    codes = unpacked(parts[".weight"].read_raw(start, stop), bits)
    return Codes(codes, parts[".scales"].read(start, stop), 0, parts[".biases"].read(start, stop))
