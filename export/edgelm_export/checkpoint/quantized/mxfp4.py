"""`quant_method: mxfp4` as gpt-oss stores its experts: 4-bit floats, 32 in a row share a power of two.

    X_blocks  uint8 [experts, rows, groups, 16]     a byte holds two values, the low half first
    X_scales  uint8 [experts, rows, groups]         2 ** (scale - 127); 255 is NaN

Unquantized, the same model stores X as [experts, columns, rows], so that is what is handed on.
"""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np

from edgelm_export.checkpoint.base import Array, LazyTensor
from edgelm_export.checkpoint.files import shown
from edgelm_export.checkpoint.quantized.tensors import StoredTensors
from edgelm_export.checkpoint.storage import values_of_bytes
from edgelm_export.config_reader import ConfigReader

_BLOCKS, _SCALES = "_blocks", "_scales"
_GROUP, _GROUP_BYTES = 32, 16
_PIECE_BYTES = 128 << 10  # decoded at once
_SCALE_TYPES = ("uint8", "float8_e8m0fnu")


def read_mxfp4(config: ConfigReader, tensors: StoredTensors) -> str:
    """Puts codes and scales together; says how the weights are stored."""
    for key in ("modules_to_not_convert", "dequantize"):
        config.get(key)
    for name, blocks in tensors.ending(_BLOCKS):
        scales = tensors.stored.get(name + _SCALES)
        if (problem := _problem(name, blocks, scales)) is not None:
            tensors.problem(problem)
        elif name in tensors.stored:
            tensors.problem(f"{shown(name)} is there beside {shown(blocks.name)}, which stands for it")
        elif scales is not None:
            experts, rows, groups, _ = blocks.shape
            shape, nbytes = (experts, groups * _GROUP, rows), blocks.nbytes + scales.nbytes
            tensors.replace(
                (blocks, scales), LazyTensor(name, "mxfp4", shape, partial(_rows, blocks, scales), nbytes=nbytes)
            )
    for name, scales in tensors.ending(_SCALES):
        if name + _BLOCKS not in tensors.stored:
            tensors.problem(f"{shown(scales.name)} scales nothing: {shown(name + _BLOCKS)} is not there")
    return f"mxfp4 (one scale {_GROUP} values)"


def _problem(name: str, blocks: LazyTensor, scales: LazyTensor | None) -> str | None:
    shape = blocks.shape
    if blocks.dtype != "uint8" or len(shape) != 4 or shape[-1] != _GROUP_BYTES:
        expected = f"uint8 [experts, rows, groups, {_GROUP_BYTES}]"
        return f"{shown(blocks.name)} is {blocks.dtype} {list(shape)}, expected {expected}"
    if scales is None:
        return f"{shown(blocks.name)} lacks its scales ({shown(name + _SCALES)})"
    if scales.dtype not in _SCALE_TYPES or scales.shape != shape[:-1]:
        return f"{shown(scales.name)} is {scales.dtype} {list(scales.shape)}, expected uint8 {list(shape[:-1])}"
    return None


def _rows(blocks: LazyTensor, scales: LazyTensor, start: int, stop: int) -> Array:
    """The experts `start:stop`, [experts, columns, rows]; what is made on the way is small."""
    _, rows, groups, _ = blocks.shape
    result = np.empty((stop - start, groups * _GROUP, rows), np.float32)
    step = max(1, _PIECE_BYTES // max(1, groups * _GROUP_BYTES))
    for expert, target in zip(range(start, stop), result, strict=True):
        codes = blocks.read_raw(expert, expert + 1).reshape(rows, groups * _GROUP_BYTES)
        powers = scales.read_raw(expert, expert + 1).reshape(rows, groups, 1)
        for first in range(0, rows, step):
            piece = slice(first, min(first + step, rows))
            values = np.take(_PAIRS, codes[piece], axis=0).reshape(piece.stop - first, groups, _GROUP)
            with np.errstate(all="ignore"):  # whoever uses the weights judges NaN and infinity
                values *= np.take(_POWERS, powers[piece])
            target[:, piece] = values.reshape(piece.stop - first, groups * _GROUP).T
    return result


def _value_pairs() -> Array:
    """The two values of every byte, [256, 2]."""
    codes = np.arange(256, dtype=np.uint8)
    halves = np.stack([codes & 15, codes >> 4], axis=-1)
    return halves.view(ml_dtypes.float4_e2m1fn).astype(np.float32)


_PAIRS = _value_pairs()
_POWERS = values_of_bytes("float8_e8m0fnu")
