"""Quantized checkpoints: the values that transformers dequantizes the same tensors to, bit for bit, and its logits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from edgelm_export.checkpoint import LazyTensor, open_checkpoint
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config
from tests.architectures.running import FLOAT_TOLERANCE, distance, export_and_load, step_logits
from tests.export.quantized_checkpoints import in_fp8, requantized
from tests.parity.reference import load_reference, reference_logits

IS_5 = Version(transformers.__version__) >= Version("5")
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 32]}
PROMPT = (5, 6, 7, 8)


def _tensor(folder: Path, settings: dict[str, Any], stored: dict[str, torch.Tensor], name: str) -> LazyTensor:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        f'{{"quantization_config": {settings}}}'.replace("'", '"').replace("None", "null")
    )
    save_file(stored, folder / "model.safetensors")
    return open_checkpoint(folder).tensors[name]


def _dequantized(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """By transformers 5; version 4 has no such function for a CPU, so there by torch itself."""
    if IS_5:
        from transformers.integrations.finegrained_fp8 import Fp8Dequantize

        return Fp8Dequantize(SimpleNamespace())._dequantize_one(codes, scales, torch.float32)
    if scales.ndim:
        scales = scales.repeat_interleave(16, 0).repeat_interleave(32, 1)
    return codes.float() * scales.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("grid", [(3, 2), ()])
def test_fp8_weights_are_what_transformers_makes_of_them(
    tmp_path: Path, grid: tuple[int, ...], kind: torch.dtype, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    codes, scales = (torch.randn(48, 64) * 30).to(kind), (torch.rand(grid) + 0.01).to(dtype)
    fmt = "e4m3" if kind is torch.float8_e4m3fn else "e5m2"
    settings = FP8 | {"fmt": fmt, "weight_block_size": [16, 32] if grid else None}
    tensor = _tensor(tmp_path, settings, {"x.weight": codes, "x.weight_scale_inv": scales}, "x.weight")
    expected = _dequantized(codes, scales).numpy()
    np.testing.assert_array_equal(tensor.read(), expected)
    np.testing.assert_array_equal(tensor.read(13, 37), expected[13:37])


def test_mxfp4_experts_are_what_transformers_makes_of_them(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (3, 24, 4, 16), dtype=torch.uint8, generator=random)
    scales = torch.randint(0, 250, (3, 24, 4), dtype=torch.uint8, generator=random)
    stored = {"mlp.experts.down_proj_blocks": blocks, "mlp.experts.down_proj_scales": scales}
    tensor = _tensor(tmp_path, {"quant_method": "mxfp4"}, stored, "mlp.experts.down_proj")
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    np.testing.assert_array_equal(tensor.read(), expected)
    np.testing.assert_array_equal(tensor.read(1, 3), expected[1:3])


@pytest.mark.parametrize("seed", range(2))
def test_an_fp8_model_has_the_logits_of_transformers(tmp_path: Path, seed: int) -> None:
    config = base_config("llama", hidden_size=64, intermediate_size=96)  # whole blocks, as transformers 5 needs
    plain = write_checkpoint(tmp_path / "plain", config, random_tensors(config, seed=seed))
    stored, floats = in_fp8(load_file(plain / "model.safetensors"), (16, 32))
    source = requantized(plain, tmp_path / "fp8", FP8, stored)
    # Version 4 runs FP8 on GPUs alone, so it is given the values the codes stand for.
    reference = load_reference(source if IS_5 else requantized(plain, tmp_path / "floats", None, floats))
    found = step_logits(export_and_load(source, tmp_path / "out"), PROMPT, [])
    assert distance(found[0], reference_logits(reference, PROMPT)[-1]) < FLOAT_TOLERANCE
