"""Quantized tensors made the plain way, and the values they stand for worked out element by element."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.export.builders import write_safetensors

Array = NDArray[Any]

FP8 = ml_dtypes.float8_e4m3fn
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def fp8_codes(values: Array, block: tuple[int, int]) -> tuple[Array, NDArray[np.float32]]:
    """A matrix as 8-bit floats with a scale for each block: the block's largest value becomes the largest code."""
    rows, columns = values.shape
    scales = np.ones((-(-rows // block[0]), -(-columns // block[1])), np.float32)
    codes = np.zeros(values.shape, FP8)
    for i, j in itertools.product(*map(range, scales.shape)):
        part = (slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1]))
        scales[i, j] = np.abs(values[part]).max() / 448
        codes[part] = (values[part] / scales[i, j]).astype(FP8)
    return codes, scales


def scaled(codes: Array, scales: Array, block: tuple[int, int]) -> NDArray[np.float32]:
    """Each code times its block's scale, in float32."""
    result = np.empty(codes.shape, np.float32)
    for row, column in itertools.product(*map(range, codes.shape)):
        scale = np.float32(scales[row // block[0], column // block[1]])
        result[row, column] = np.float32(codes[row, column]) * scale
    return result


def mxfp4_values(blocks: Array, scales: Array) -> NDArray[np.float32]:
    """The values of [experts, rows, groups, 16] bytes, as [experts, columns, rows]."""
    experts, rows, groups, _ = blocks.shape
    result = np.empty((experts, groups * 32, rows), np.float32)
    for e, row, group, byte in np.ndindex(blocks.shape):
        power = 2.0 ** (int(scales[e, row, group]) - 127)
        code = int(blocks[e, row, group, byte])
        result[e, group * 32 + 2 * byte, row] = FP4_VALUES[code & 15] * power
        result[e, group * 32 + 2 * byte + 1, row] = FP4_VALUES[code >> 4] * power
    return result


def in_fp8(
    tensors: Mapping[str, Array], block: tuple[int, int], suffix: str = "_scale_inv"
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The projections of a model as codes and scales, the rest as it is; and the same model in float32."""
    stored: dict[str, Array] = {}
    floats: dict[str, Array] = {}
    for name, values in tensors.items():
        if not name.endswith("_proj.weight"):
            stored[name] = floats[name] = values
            continue
        codes, scales = fp8_codes(values, block)
        stored |= {name: codes, name + suffix: scales}
        floats[name] = scaled(codes, scales, block)
    return stored, floats


def requantized(
    source: Path,
    target: Path,
    settings: Mapping[str, Any] | None,
    tensors: Mapping[str, Array],
    key: str = "quantization_config",
) -> Path:
    """A copy of a hub folder with other weights, and with a quantization_config where there are settings."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    if settings is not None:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (target / "config.json").write_text(json.dumps(config | {key: settings}), encoding="utf-8")
    write_safetensors(target / "model.safetensors", tensors, {"format": "pt"})
    return target
