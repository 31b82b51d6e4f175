"""Checkpoints stored as integers whose settings or tensors are false: refused by name, all that is wrong at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import CheckpointError, UnsupportedConfig
from edgelm_export.checkpoint import Checkpoint, open_checkpoint
from edgelm_export.checkpoint.quantized.integers import unpacked
from edgelm_export.weights import Weight
from tests.export.builders import write_hub_folder
from tests.export.integer_checkpoints import (
    Array,
    Made,
    along_columns,
    awq_config,
    compressed,
    compressed_config,
    gptq,
    gptq_config,
    mlx,
)

RANDOM = np.random.default_rng(12)


def opened(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Array], key: str = "quantization_config"
) -> Checkpoint:
    return open_checkpoint(write_hub_folder(folder, {"model_type": "llama", key: settings}, tensors))


def module(made: Made, name: str = "x") -> dict[str, Array]:
    return {name + leaf: tensor for leaf, tensor in made[0].items()}


WEIGHT = RANDOM.standard_normal((16, 64)).astype(np.float32)
GPTQ = partial(gptq, WEIGHT, 4, 32, symmetric=True)


@pytest.mark.parametrize("bits", range(2, 9))
def test_unpacking_undoes_a_dense_packing(bits: int) -> None:
    codes = RANDOM.integers(0, 1 << bits, (5, 64))
    np.testing.assert_array_equal(unpacked(along_columns(codes, bits).view(np.uint8), bits), codes)


def test_a_zero_point_of_zero_is_stored_as_all_ones(tmp_path: Path) -> None:
    made = gptq(np.abs(WEIGHT), 4, 32, symmetric=False)
    assert (made[0][".qzeros"] == -1).all()
    tensors = opened(tmp_path, gptq_config(4, 32, sym=False), module(made)).tensors
    np.testing.assert_array_equal(tensors["x.weight"].read(), made[1])


def test_mlx_modules_may_have_settings_of_their_own(tmp_path: Path) -> None:
    first, second = mlx(WEIGHT, 4, 32), mlx(WEIGHT, 8, 64)
    settings = {"bits": 4, "group_size": 32, "y": {"bits": 8, "group_size": 64}, "z": False, "hue": 1}
    stored = module(first) | module(second, "y") | {"z.weight": WEIGHT}
    checkpoint = opened(tmp_path, settings, stored, "quantization")
    for name, expected in (("x", first[1]), ("y", second[1]), ("z", WEIGHT)):
        np.testing.assert_array_equal(checkpoint.tensors[f"{name}.weight"].read(), expected)
    assert checkpoint.notes == ("quantization 'hue' is not known to edgelm and was not used",)
    assert checkpoint.quantization == (
        "mlx affine (4 bits, one scale and bias 32 columns or 8 bits, one scale and bias 64 columns): 2 tensors"
    )


@pytest.mark.parametrize(
    ("settings", "stored", "message"),
    [
        (
            gptq_config(4, 32),
            module(gptq(WEIGHT, 4, 32, symmetric=False)),
            "'x.weight' has zero points, though by the config",
        ),
        (
            gptq_config(4, 32),
            module(GPTQ(ordered=True)),
            "'x.g_idx' puts the columns in an order of its own, though by",
        ),
        (
            gptq_config(4, 32, desc_act=True),
            module(GPTQ()) | {"x.g_idx": np.zeros(64, np.int32)},
            "'x.g_idx' does not put 32 columns in each group",
        ),
        (
            compressed_config(4, "group", 32),
            module(compressed(WEIGHT, 4, "group", 32)) | {"x.weight_shape": np.array([16, 63])},
            "'x.weight_shape' is [16, 63], but the codes are those of [16, 64]",
        ),
    ],
)
def test_contents_that_contradict_the_config_are_refused(
    tmp_path: Path, settings: Mapping[str, Any], stored: Mapping[str, Array], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, settings, stored).tensors["x.weight"].read()
    assert message in str(caught.value)


def test_every_flaw_of_the_parts_is_listed_at_once(tmp_path: Path) -> None:
    good, ordered = module(GPTQ()), module(GPTQ(), "b")
    del ordered["b.g_idx"]
    stored = {
        **{name: tensor for name, tensor in good.items() if name != "x.qzeros"},
        **ordered,
        "c.qweight": np.zeros((3, 4, 1), np.int32),
        "d.qweight": np.zeros((8, 16), np.float32),
        "e.scales": np.zeros((2, 16), np.float16),
        **module(GPTQ(), "f"),
        "f.qzeros": np.zeros((2, 3), np.int32),
        "f.scales": np.zeros((2, 16), np.int32),
        "f.weight": WEIGHT,
        **module(GPTQ(), "g"),
        "g.weight": WEIGHT,
    }
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, gptq_config(4, 32, desc_act=True), stored)
    for part in (
        "'x' lacks 'x.qzeros'",
        "'b' lacks 'b.g_idx'",
        "'c.qweight' is int32 [3, 4, 1], expected int32 or uint32 of rows and columns",
        "'d.qweight' is float32 [8, 16], expected int32 or uint32 of",
        "'e.scales' is of no use: 'e.qweight' is not there",
        "'f.qzeros' is int32 [2, 3], expected int32 or uint32 [2, 2]",
        "'f.scales' is int32 [2, 16], expected float16 or bfloat16 or float32 [2, 16]",
        "'g.weight' is there beside what stands for it",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (gptq_config(5, 32), "bits 5 is not supported (known: 2, 3, 4, 8)"),
        (gptq_config(4, 0), "group_size is 0, expected a whole number from 1"),
        (gptq_config(4, 32, checkpoint_format="marlin"), "checkpoint_format 'marlin' is not supported"),
        (gptq_config(4, 32, dynamic={"-:lm_head": {}}), "dynamic {'-:lm_head': {}} is not supported"),
        (awq_config(bits=8), "bits 8 is not supported (only 4)"),
        (awq_config(version="gemv"), "version 'gemv' is not supported (only 'gemm')"),
        (awq_config(zero_point=False), "zero_point False is not supported (only True)"),
        (compressed_config(3, "group", 32), "num_bits 3 is not supported (known: 2, 4, 8)"),
        (compressed_config(4, "group", 32, form="int-quantized"), "num_bits 4 is not supported (known: 8)"),
        (compressed_config(4, "block"), "strategy 'block' is not supported (known: channel, group, tensor)"),
        (compressed_config(4, "group", 32, actorder="other"), "actorder 'other' is not supported"),
        (
            compressed_config(4, "group", 32)
            | {
                "config_groups": {
                    str(size): compressed_config(4, "group", size)["config_groups"]["group_0"] for size in (32, 64)
                }
            },
            "config_groups have integers of several kinds",
        ),
        ({"quant_method": "bitsandbytes"}, "one of load_in_4bit and load_in_8bit must be true"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
            "bnb_4bit_quant_storage 'bfloat16' is not supported",
        ),
        ({"bits": 4, "group_size": 48}, "group_size 48 is not supported (known: 32, 64, 128)"),
        ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "mode 'mxfp4' is not supported (only 'affine')"),
    ],
)
def test_settings_that_are_not_supported_are_named(tmp_path: Path, settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig) as caught:
        opened(tmp_path, settings, {})
    assert message in str(caught.value)


def test_a_scale_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    stored = module(GPTQ())
    stored["x.scales"][1, 3] = np.nan
    tensor = opened(tmp_path, gptq_config(4, 32), stored).tensors["x.weight"]
    with pytest.raises(CheckpointError, match=r"up <- x\.weight holds NaN"):
        list(Weight("up", tensor.shape, tensor).codes())
