"""Checkpoints of integers, packed and worked out code by code from what the formats' own libraries document, none of which is needed.

Each maker takes float matrices [n, k] and returns the tensors of a quantized module, and the values they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]
Made = tuple[dict[str, Array], Floats]  # tensors by the end of their names, the weight's values

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ, awq/modules/linear/gemm.py: which row goes into nibble 0, 1, 2 ...


def in_words(codes: Sequence[int], bits: int) -> NDArray[np.uint32]:
    """One long number whose lowest bits are the first code, cut into words of 32 bits."""
    number = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    words = -(-len(codes) * bits // 32)
    return np.frombuffer(number.to_bytes(words * 4, "little"), "<u4")


def along_columns(codes: Array, bits: int) -> NDArray[np.uint32]:
    """[n, k] -> [n, ceil(k * bits / 32)]."""
    return np.stack([in_words(row, bits) for row in codes.tolist()])


@dataclass(frozen=True)
class Rounded:
    """Codes [n, k], zero points and scales [n, groups]; `group` is the group of each column."""

    codes: Array
    zeros: Array
    scales: Array
    group: Array

    @property
    def values(self) -> Floats:
        """The differences are whole numbers, so one product is all that is rounded."""
        differences = (self.codes - self.zeros[:, self.group]).astype(np.float32)
        return differences * self.scales[:, self.group].astype(np.float32)


def rounded(weight: Floats, bits: int, group: Array, *, symmetric: bool, dtype: Any = np.float16) -> Rounded:
    """Round to nearest, columns of the same number in `group` on one grid."""
    n, groups, top = len(weight), int(group.max()) + 1, (1 << bits) - 1
    zeros = np.full((n, groups), 1 << (bits - 1))
    scales = np.ones((n, groups), dtype)
    codes = np.zeros(weight.shape, np.int64)
    for g in range(groups):
        part = weight[:, group == g]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            scales[:, g] = np.maximum(-low, high) / ((top - 1) / 2)
        else:
            scales[:, g] = (high - low) / top
            zeros[:, g] = np.clip(np.rint(-low / scales[:, g].astype(np.float32)), 0, top)
        steps = np.rint(part / scales[:, g].astype(np.float32)[:, None])
        codes[:, group == g] = np.clip(steps + zeros[:, g][:, None], 0, top)
    return Rounded(codes, zeros, scales, group)


def groups_of(k: int, group_size: int | None) -> Array:
    """The group of each column, in order."""
    return np.arange(k) // (group_size or k)


def gptq(
    weight: Floats, bits: int, group_size: int | None, *, symmetric: bool, ordered: bool = False, version: int = 1
) -> Made:
    """As AutoGPTQ's QuantLinear.pack writes it (auto_gptq/nn_modules/qlinear/qlinear_cuda.py): everything turned, zeros less one."""
    group = groups_of(weight.shape[1], group_size)
    if ordered:
        group = np.random.default_rng(5).permutation(group)
    made = rounded(weight, bits, group, symmetric=symmetric)
    stored_zeros = made.zeros if version == 2 else (made.zeros - 1) % (1 << bits)
    tensors = {
        ".qweight": along_columns(made.codes, bits).T.view(np.int32),
        ".qzeros": along_columns(stored_zeros.T, bits).view(np.int32),
        ".scales": made.scales.T,
        ".g_idx": group.astype(np.int32),
    }
    return {leaf: np.ascontiguousarray(tensor) for leaf, tensor in tensors.items()}, made.values


def awq(weight: Floats, group_size: int | None) -> Made:
    """As AutoAWQ's WQLinear_GEMM.from_linear writes it: eight rows to a word, in its order."""
    made = rounded(weight, 4, groups_of(weight.shape[1], group_size), symmetric=False)

    def packed(by_column: Array) -> NDArray[np.int32]:  # [k or groups, n]
        eights = by_column.reshape(len(by_column), -1, 8)[..., list(AWQ_ORDER)]
        return along_columns(eights.reshape(len(by_column), -1), 4).view(np.int32)

    tensors = {".qweight": packed(made.codes.T), ".qzeros": packed(made.zeros.T)}
    return tensors | {".scales": np.ascontiguousarray(made.scales.T)}, made.values


def mlx(weight: Floats, bits: int, group_size: int, dtype: Any = np.float32) -> Made:
    """As mlx.core.quantize lays it out: a weight is code * scale + bias, one product and one sum in float32."""
    n, k = weight.shape
    blocks = weight.reshape(n, -1, group_size)
    low, high = blocks.min(-1), blocks.max(-1)
    scales, biases = ((high - low) / ((1 << bits) - 1)).astype(dtype), low.astype(dtype)
    steps = (blocks - biases.astype(np.float32)[..., None]) / scales.astype(np.float32)[..., None]
    codes = np.clip(np.rint(steps), 0, (1 << bits) - 1).astype(int)
    products = codes.astype(np.float32) * scales.astype(np.float32)[..., None]
    values = products + biases.astype(np.float32)[..., None]
    tensors = {".weight": along_columns(codes.reshape(n, k), bits), ".scales": scales, ".biases": biases}
    return tensors, values.reshape(n, k)


def compressed(
    weight: Floats,
    bits: int,
    strategy: str,
    group_size: int | None = None,
    *,
    symmetric: bool = True,
    packed: bool = True,
    ordered: bool = False,
) -> Made:
    """As compressed-tensors' pack-quantized (`packed`) and int-quantized formats lay it out: codes and zero points are signed."""
    n, k = weight.shape
    group = groups_of(k, group_size)
    if ordered:
        group = np.random.default_rng(5).permutation(group)
    made = rounded(weight, bits, group, symmetric=symmetric)
    if strategy == "tensor":
        whole = rounded(weight.reshape(1, -1), bits, groups_of(n * k, None), symmetric=symmetric)
        zeros, scales = (np.broadcast_to(part, (n, 1)) for part in (whole.zeros, whole.scales))
        made = Rounded(whole.codes.reshape(n, k), zeros, scales, group)
    half = 1 << (bits - 1)
    tensors: dict[str, Array] = {".weight_scale": made.scales[:1, 0] if strategy == "tensor" else made.scales}
    if packed:
        tensors[".weight_packed"] = along_columns(made.codes, bits).view(np.int32)
        tensors[".weight_shape"] = np.array([n, k])
    else:
        tensors[".weight"] = (made.codes - half).astype(np.int8)
    if not symmetric:
        signed = (made.zeros - half).astype(np.int8)
        signed = signed[0] if strategy == "tensor" else signed
        turned = np.ascontiguousarray(along_columns(made.zeros.T, bits).T.view(np.int32))
        tensors[".weight_zero_point"] = turned if packed and strategy != "tensor" else signed
    if ordered:
        tensors[".weight_g_idx"] = group.astype(np.int32)
    return tensors, made.values


def gptq_config(bits: int, group_size: int, **more: Any) -> dict[str, Any]:
    """The quantization_config of such a checkpoint."""
    return {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": True, "desc_act": False} | more


def awq_config(**more: Any) -> dict[str, Any]:
    """The quantization_config of such a checkpoint."""
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"} | more


def compressed_config(
    bits: int,
    strategy: str,
    group_size: int | None = None,
    *,
    symmetric: bool = True,
    form: str = "pack-quantized",
    **more: Any,
) -> dict[str, Any]:
    """The quantization_config of such a checkpoint."""
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": group_size, "symmetric": symmetric}
    group = {"targets": ["Linear"], "weights": weights | {"dynamic": False} | more}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def in_integers(
    tensors: Mapping[str, Array], make: Callable[[Floats], Made], *, tables: bool = False
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The projections of a model (and with `tables` its token tables) as `make` stores them, the rest as it is; and the values."""
    stored: dict[str, Array] = {}
    floats: dict[str, Array] = {}
    table = ("embed_tokens.weight", "lm_head.weight") if tables else ()
    for name, values in tensors.items():
        if not name.endswith(("_proj.weight", *table)):
            stored[name] = floats[name] = values
            continue
        parts, floats[name] = make(values)
        stored |= {name.removesuffix(".weight") + leaf: part for leaf, part in parts.items()}
    return stored, floats
