"""Known answers of products with stored weights: in blocks of integers, in integers with a scale an output, and in floats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm_export.known_answers.problems import Array, Case, Problem, Setting, drawn

_ROWS = (1, 5)  # one row of the input takes another kernel than several
_OUTPUTS = 20  # no multiple of any tile
_BLOCKS = 3

# Where the kernel rounds its input to 8 bits. Another layout or zero point is off by a third or more.
_ROUNDED = 0.05


def matmul_nbits(setting: Setting) -> Problem:
    """x @ weight.T + bias for a weight in blocks."""
    rng = np.random.default_rng(0)
    size = _BLOCKS * setting.attributes["block_size"]
    weight = _Blocks(rng, setting, _OUTPUTS, size, zero_points=setting.has(3))
    bias = drawn(rng, _OUTPUTS) if setting.has(5) else None
    inputs = [weight.packed.reshape(_OUTPUTS, _BLOCKS, -1), weight.scales, weight.zero_points, None, bias]
    cases = [
        Case([x, *inputs], x.astype(np.float64) @ weight.values.T + (0 if bias is None else bias))
        for x in (rng.normal(0, 1, (1, rows, size)).astype(np.float32) for rows in _ROWS)
    ]
    rounds = setting.attributes.get("accuracy_level", 0) == 4
    attributes = {**setting.attributes, "K": size, "N": _OUTPUTS}
    return Problem(attributes, cases, _ROUNDED) if rounds else Problem(attributes, cases)


def gather_block_quantized(setting: Setting) -> Problem:
    """Rows of a table in blocks."""
    rng = np.random.default_rng(0)
    table = _Blocks(rng, setting, 7, _BLOCKS * setting.attributes["block_size"], zero_points=setting.has(3))
    ids = np.array([[5, 0, 6], [1, 1, 3]], np.int64)
    inputs = [table.packed.reshape(7, -1), ids, table.scales, table.zero_points]
    return Problem(setting.attributes, [Case(inputs, table.values[ids], fed=1)])


class _Blocks:
    """Random codes, scales and zero points in blocks, packed with the low bits first, and the values they stand for."""

    def __init__(self, rng: np.random.Generator, setting: Setting, rows: int, size: int, *, zero_points: bool) -> None:
        bits, block = setting.attributes["bits"], setting.attributes["block_size"]
        blocks = size // block
        codes = rng.integers(0, 2**bits, (rows, blocks, block), np.uint8)
        zeros = np.full((rows, blocks), 2 ** (bits - 1), np.uint8)
        if zero_points:
            zeros = rng.integers(2**bits // 4, 3 * 2**bits // 4, (rows, blocks), np.uint8)
        self.scales = rng.uniform(0.5, 1.5, (rows, blocks)).astype(np.float32) / 2**bits
        self.packed = _packed(codes.reshape(rows, -1), bits)
        self.zero_points = _packed(zeros, bits) if zero_points else None
        levels = codes.astype(np.float64) - zeros[:, :, None]
        self.values: NDArray[np.float64] = (levels * self.scales[:, :, None]).reshape(rows, size)


def _packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [rows, n] -> bytes [rows, ceil(n * bits / 8)]."""
    each = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :bits]
    return np.packbits(each.reshape(len(codes), -1), axis=-1, bitorder="little")


def dynamic_quantize_matmul(setting: Setting) -> Problem:
    """x @ (weight * scales) + bias, x rounded to 8 bits in the kernel."""
    rng = np.random.default_rng(0)
    weight, scales = _integers(rng)
    bias = drawn(rng, _OUTPUTS) if setting.has(4) else None
    values = weight.astype(np.float64) * scales
    cases = [
        Case([x, weight, scales, None, bias], x.astype(np.float64) @ values + (0 if bias is None else bias))
        for x in (_spread(rng, rows) for rows in _ROWS)
    ]
    return Problem(setting.attributes, cases, _ROUNDED)


def matmul_integer_to_float(setting: Setting) -> Problem:
    """(x - zero point) @ weight * scales for x of uint8; sums of integers are exact, so nothing is lost."""
    rng = np.random.default_rng(0)
    weight, scales = _integers(rng)
    step, zero = np.array(1 / 127, np.float32), np.array(128, np.uint8)
    cases: list[Case] = []
    for rows in _ROWS:
        x = rng.integers(0, 256, (1, rows, len(weight)), np.uint8)
        x[:, :, ::2] = 255
        answer = (x.astype(np.float64) - 128) @ weight.astype(np.float64) * step * scales
        cases.append(Case([x, weight, step, scales, zero], answer, fed=2))
    return Problem(setting.attributes, cases)


def _integers(rng: np.random.Generator) -> tuple[Array, Array]:
    """int8 weights [64, outputs] with scales. Half are the largest: kernels that sum pairs in 16 bits overflow on them."""
    weight = rng.integers(-127, 128, (64, _OUTPUTS), np.int8)
    weight[:, ::2] = 127
    return weight, rng.uniform(0.5, 1.5, _OUTPUTS).astype(np.float32) / 127


def _spread(rng: np.random.Generator, rows: int) -> Array:
    """An input that is rounded to 0 and to 255 often."""
    return np.clip(rng.normal(0.5, 1, (1, rows, 64)), -1, 1).astype(np.float32)


def fused_matmul(setting: Setting) -> Problem:
    """alpha * x @ weight, either of them turned around."""
    turned = {name: bool(setting.attributes.get(name, 0)) for name in ("transA", "transB")}
    alpha, rng = setting.attributes.get("alpha", 1.0), np.random.default_rng(0)
    shapes = [(2, 24, 5) if turned["transA"] else (2, 5, 24), (_OUTPUTS, 24) if turned["transB"] else (24, _OUTPUTS)]
    x, weight = (rng.normal(0, 1, shape).astype(np.float32) for shape in shapes)
    left = x.swapaxes(1, 2) if turned["transA"] else x
    right = weight.T if turned["transB"] else weight
    answer: Any = alpha * (left.astype(np.float64) @ right)
    return Problem(setting.attributes, [Case([x, weight], answer)])
