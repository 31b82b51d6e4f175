"""Checkpoints made by the formats' own packages: the values those packages dequantize them to, bit for bit, and packages that keep them.

GPTQ and AWQ have no packer that can be installed here: tests/export/integer_checkpoints.py writes theirs from what the packers' source
says. GGUF's block types are compared with the gguf package in tests/export/test_gguf_integers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgelm.providers import PROVIDERS
from edgelm_export.checkpoint import open_checkpoint
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config, rope_keys
from tests.architectures.running import FLOAT_TOLERANCE, distance, export_and_load
from tests.export.integer_checkpoints import Made, in_integers
from tests.export.quantized_checkpoints import requantized

REASON = "comes with requirements-v5.txt"
ACTIVATION_ROUNDING = 0.1  # as in tests/export/test_integer_checkpoints.py
IDS = range(5, 45)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """Settings, the key they stand under, and what packs a weight and says what its codes stand for."""

    settings: Mapping[str, Any]
    make: Callable[[Floats], Made]
    key: str = "quantization_config"
    tables: bool = False


def compressed(form: str, weights: Mapping[str, Any], dtype: torch.dtype) -> Case:
    """Rounded and packed by compressed-tensors' own functions, dequantized by them in float32."""
    library = pytest.importorskip("compressed_tensors", reason=REASON)
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    packer: Any = BaseCompressor.get_value_from_registry(form)

    def make(values: Floats) -> Made:
        weight = torch.from_numpy(values)
        size = {"group": args.group_size, "channel": weight.shape[1]}.get(str(args.strategy))
        blocks = weight.reshape(1, 1, -1) if size is None else weight.reshape(len(weight), -1, size)
        scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
        scale, zero = scale.to(dtype), zero.to(torch.int8 if args.type == "int" else zero.dtype)
        if size is None:
            scale, zero = scale.reshape(1), zero.reshape(1)
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
        packed = packer.compress(dict(state), scheme)
        codes = packed["weight"] if "weight" in packed else _unpacked(packed, args.num_bits)
        found = dequantize(codes, scale.float(), zero if args.type == "int" else None, args, dtype=torch.float32)
        return {f".{leaf}": _array(part) for leaf, part in packed.items()}, found.numpy()

    assert library.__version__
    settings = {"quant_method": "compressed-tensors", "format": form}
    return Case(settings | {"config_groups": {"group_0": scheme.model_dump(mode="json")}}, make)


def _unpacked(packed: Mapping[str, torch.Tensor], bits: int) -> torch.Tensor:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    return unpack_from_int32(packed["weight_packed"], bits, torch.Size(packed["weight_shape"].tolist()))


def _array(part: torch.Tensor) -> NDArray[Any]:
    """As a NumPy array of the same type."""
    import ml_dtypes

    if part.dtype is torch.bfloat16:
        return part.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if part.dtype is torch.float8_e4m3fn:
        return part.view(torch.int8).numpy().view(ml_dtypes.float8_e4m3fn)
    return part.numpy()


def mlx(bits: int, group_size: int) -> Case:
    """Packed and dequantized by mlx.core in float32."""
    mx = pytest.importorskip("mlx.core", reason=REASON)

    def make(values: Floats) -> Made:
        parts = mx.quantize(mx.array(values), group_size=group_size, bits=bits)
        found = np.array(mx.dequantize(*parts, group_size=group_size, bits=bits))
        return dict(zip((".weight", ".scales", ".biases"), map(np.array, parts), strict=True)), found

    return Case({"bits": bits, "group_size": group_size}, make, "quantization", tables=True)


def four_bit(kind: str, nested: bool) -> Case:
    """Packed and dequantized by bitsandbytes on the CPU."""
    pytest.importorskip("bitsandbytes", reason=REASON)
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def make(values: Floats) -> Made:
        codes, state = quantize_4bit(
            torch.from_numpy(values), quant_type=kind, compress_statistics=nested, blocksize=64
        )
        found = dequantize_4bit(codes, state).numpy()
        parts = {f".weight.{leaf}": part.numpy() for leaf, part in state.as_dict(packed=True).items()}
        return {".weight": codes.numpy(), **parts}, found

    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Case(settings | {"bnb_4bit_use_double_quant": nested}, make)


def eight_bit() -> Case:
    """Rounded and dequantized by bitsandbytes on the CPU."""
    pytest.importorskip("bitsandbytes", reason=REASON)
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    def make(values: Floats) -> Made:
        codes, scale, _ = int8_vectorwise_quant(torch.from_numpy(values).to(torch.float16))
        return {".weight": codes.numpy(), ".SCB": scale.numpy()}, int8_vectorwise_dequant(codes, scale).numpy()

    return Case({"quant_method": "bitsandbytes", "load_in_8bit": True}, make)


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
CASES: Mapping[str, Callable[[], Case]] = {
    "pack-quantized int4": partial(compressed, "pack-quantized", INT4, torch.float16),
    "pack-quantized int4 zero points": partial(
        compressed, "pack-quantized", INT4 | {"symmetric": False}, torch.bfloat16
    ),
    "pack-quantized int8": partial(compressed, "pack-quantized", INT8, torch.float32),
    "int-quantized": partial(compressed, "int-quantized", INT8, torch.bfloat16),
    "int-quantized zero points": partial(compressed, "int-quantized", INT8 | {"symmetric": False}, torch.float32),
    "naive-quantized tensor": partial(compressed, "naive-quantized", INT8 | {"strategy": "tensor"}, torch.float32),
    "float-quantized": partial(
        compressed, "float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, torch.float32
    ),
    **{
        f"mlx {bits} bits": partial(mlx, bits, size)
        for bits, size in ((2, 32), (3, 64), (4, 32), (5, 32), (6, 64), (8, 32))
    },
    **{
        f"{kind}{' nested' * nested}": partial(four_bit, kind, nested)
        for kind in ("nf4", "fp4")
        for nested in (False, True)
    },
    "bitsandbytes int8": eight_bit,
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_formats_own_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]()
    tied = {"tie_word_embeddings": True} if case.tables else {}
    config = base_config(
        "llama", hidden_size=64, intermediate_size=192, **rope_keys("default", 1e4, "rope_theta"), **tied
    )
    plain = write_checkpoint(tmp_path / "plain", config, random_tensors(config, seed=3))
    stored, floats = in_integers(random_tensors(config, seed=3), case.make, tables=case.tables)
    source = requantized(plain, tmp_path / "stored", case.settings, stored, case.key)
    expected = export_and_load(requantized(plain, tmp_path / "floats", None, floats), tmp_path / "float").logits(IDS)
    tensors = open_checkpoint(source).tensors
    for key, values in floats.items():
        np.testing.assert_array_equal(tensors[key].read(), values, err_msg=key)
    if any(tensor.grid for tensor in tensors.values()):
        kept = export_and_load(source, tmp_path / "kept", "keep").logits(IDS)
        assert distance(kept, expected) < ACTIVATION_ROUNDING
    monkeypatch.setitem(PROVIDERS, "cpu", replace(PROVIDERS["cpu"], accuracy_level=0))
    exact = export_and_load(source, tmp_path / "exact", "keep").logits(IDS)
    assert distance(exact, expected) < FLOAT_TOLERANCE
