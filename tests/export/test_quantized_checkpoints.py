"""Checkpoints stored quantized: logical tensors equal their codes times their scales bit for bit, in any range of rows."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from edgelm.errors import CheckpointError, UnsupportedConfig
from edgelm_export.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from tests.export.builders import safetensors_bytes, write_hub_folder
from tests.export.quantized_checkpoints import FP8, Array, fp8_codes, mxfp4_values, scaled

RANDOM = np.random.default_rng(11)
BLOCK_FP8: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [16, 8],
}
TENSOR_FP8 = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
CODES, SCALES = fp8_codes(RANDOM.standard_normal((41, 27)), (16, 8))


def compressed(strategy: str, **changes: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True, "dynamic": False} | changes
    group = {"targets": ["Linear"], "weights": weights, "input_activations": {"dynamic": True}}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


def opened(folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Array]) -> Checkpoint:
    config = {"model_type": "llama", "quantization_config": settings}
    return open_checkpoint(write_hub_folder(folder, config, tensors))


def assert_reads_as(tensor: LazyTensor, expected: Array) -> None:
    assert tensor.shape == expected.shape
    rows = len(expected)
    for start, stop in [
        (0, None),
        (0, 1),
        (1, 3),
        (rows - 1, None),
        (rows // 2, rows),
        (2, 2),
        (rows, None),
        (-2, None),
    ]:
        np.testing.assert_array_equal(tensor.read(start, stop), expected[start:stop])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_block_of_fp8_codes_shares_a_scale(tmp_path: Path, dtype: str) -> None:
    scales = SCALES.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    norm = np.ones(27, ml_dtypes.bfloat16)
    stored = {"x.weight": CODES, "x.weight_scale_inv": scales, "norm.weight": norm, "x.bias": norm}
    checkpoint = opened(tmp_path, BLOCK_FP8, stored)
    assert set(checkpoint.tensors) == {"x.weight", "norm.weight", "x.bias"}
    assert_reads_as(checkpoint.tensors["x.weight"], scaled(CODES, scales, (16, 8)))
    assert checkpoint.tensors["x.weight"].nbytes == CODES.nbytes + scales.nbytes
    assert checkpoint.quantization == "fp8 (one scale a 16 x 8 block): 1 tensors"
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.notes == ()


def test_scales_may_be_powers_of_two_in_one_byte(tmp_path: Path) -> None:
    scales = (2.0 ** np.round(np.log2(SCALES))).astype(ml_dtypes.float8_e8m0fnu)
    stored = {"x.weight": CODES, "x.weight_scale_inv": scales}
    tensors = opened(tmp_path, BLOCK_FP8 | {"scale_fmt": "ue8m0"}, stored).tensors
    assert_reads_as(tensors["x.weight"], scaled(CODES, scales, (16, 8)))


def test_a_block_larger_than_any_weight_is_the_whole_weight(tmp_path: Path) -> None:
    stored = {"x.weight": CODES, "x.weight_scale_inv": np.full((1, 1), 0.3, np.float32)}
    settings = BLOCK_FP8 | {"weight_block_size": [1 << 60, 1 << 60]}
    assert_reads_as(
        opened(tmp_path, settings, stored).tensors["x.weight"], scaled(CODES, np.full((1, 1), 0.3), CODES.shape)
    )


def test_every_code_is_scaled_as_float32_scales_it(tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for kind, fmt in ((FP8, "e4m3"), (ml_dtypes.float8_e5m2, "e5m2")):
        stored = {"x.weight": codes.view(kind), "x.weight_scale_inv": np.array([[0.1, 3e38]], np.float32)}
        settings = BLOCK_FP8 | {"fmt": fmt, "weight_block_size": [16, 8]}
        with np.errstate(all="ignore"):
            expected = scaled(codes.view(kind), np.array([[0.1, 3e38]], np.float32), (16, 8))
        assert_reads_as(opened(tmp_path / fmt, settings, stored).tensors["x.weight"], expected)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("suffix", ["_scale", "_scale_inv"])
@pytest.mark.parametrize("settings", [TENSOR_FP8, {"quant_method": "fp8", "ignored_layers": ["lm_head"]}])
def test_a_tensor_of_fp8_codes_shares_a_scale(
    tmp_path: Path, settings: Mapping[str, Any], suffix: str, shape: tuple[int, ...]
) -> None:
    stored = {"x.weight": CODES, "x.weight" + suffix: np.full(shape, 0.37, np.float32)}
    expected = scaled(CODES, np.full((1, 1), 0.37), CODES.shape)
    assert_reads_as(opened(tmp_path, settings, stored).tensors["x.weight"], expected)


def test_experts_in_one_tensor_have_scales_of_their_own(tmp_path: Path) -> None:
    pairs = [fp8_codes(RANDOM.standard_normal((20, 24)), (16, 8)) for _ in range(5)]
    codes, scales = (np.stack(parts) for parts in zip(*pairs, strict=True))
    tensors = opened(tmp_path, BLOCK_FP8, {"experts.up_proj": codes, "experts.up_proj_scale_inv": scales}).tensors
    assert set(tensors) == {"experts.up_proj"}
    assert_reads_as(tensors["experts.up_proj"], np.stack([scaled(*pair, (16, 8)) for pair in pairs]))


@pytest.mark.parametrize("kind", ["float-quantized", "naive-quantized"])
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize(
    ("strategy", "block", "shape"),
    [
        ("tensor", (41, 27), (1,)),
        ("channel", (1, 27), (41, 1)),
        ("channel", (1, 27), (41,)),
        ("block", (16, 8), (3, 4)),
    ],
)
def test_compressed_tensors_name_what_shares_a_scale(
    tmp_path: Path, kind: str, key: str, strategy: str, block: tuple[int, int], shape: tuple[int, ...]
) -> None:
    codes, scales = fp8_codes(RANDOM.standard_normal((41, 27)), block)
    settings = compressed(strategy, block_structure=[16, 8] if strategy == "block" else None) | {"format": kind}
    stored = {"x.weight": codes, "x.weight_scale": scales.reshape(shape).astype(ml_dtypes.bfloat16)}
    folder = write_hub_folder(tmp_path, {"model_type": "llama", key: settings}, stored)
    checkpoint = open_checkpoint(folder)
    assert_reads_as(checkpoint.tensors["x.weight"], scaled(codes, scales.astype(ml_dtypes.bfloat16), block))
    assert checkpoint.config == {"model_type": "llama"}


def test_groups_of_compressed_tensors_may_differ(tmp_path: Path) -> None:
    settings = compressed("channel")
    settings["config_groups"]["group_1"] = compressed("block", block_structure="16x8")["config_groups"]["group_0"]
    settings["config_groups"]["group_2"] = {"targets": ["re:.*attn"], "weights": None}
    row_codes, row_scales = fp8_codes(RANDOM.standard_normal((41, 27)), (1, 27))
    stored = {"x.weight": row_codes, "x.weight_scale": row_scales, "y.weight": CODES, "y.weight_scale": SCALES}
    tensors = opened(tmp_path, settings, stored).tensors
    assert_reads_as(tensors["x.weight"], scaled(row_codes, row_scales, (1, 27)))
    assert_reads_as(tensors["y.weight"], scaled(CODES, SCALES, (16, 8)))


def test_mxfp4_experts_read_as_their_float_checkpoint_stores_them(tmp_path: Path) -> None:
    blocks = RANDOM.integers(0, 256, (3, 10, 2, 16), np.uint8)
    blocks[0, 0, 0] = np.arange(16) * 17  # every value there is
    scales = RANDOM.integers(0, 250, (3, 10, 2), np.uint8)
    bias = np.ones((3, 10), ml_dtypes.bfloat16)
    names = ("mlp.experts.up_proj_blocks", "mlp.experts.up_proj_scales", "mlp.experts.up_proj_bias")
    checkpoint = opened(tmp_path, MXFP4, dict(zip(names, (blocks, scales, bias), strict=True)))
    assert set(checkpoint.tensors) == {"mlp.experts.up_proj", "mlp.experts.up_proj_bias"}
    tensor = checkpoint.tensors["mlp.experts.up_proj"]
    assert (tensor.dtype, tensor.nbytes) == ("mxfp4", blocks.nbytes + scales.nbytes)
    expected = mxfp4_values(blocks, scales)
    assert_reads_as(tensor, expected)
    np.testing.assert_array_equal(np.signbit(tensor.read()), np.signbit(expected))


def test_an_mxfp4_scale_of_255_is_no_number(tmp_path: Path) -> None:
    stored = {"up_blocks": np.zeros((1, 2, 1, 16), np.uint8), "up_scales": np.array([[[255], [127]]], np.uint8)}
    values = opened(tmp_path, MXFP4, stored).tensors["up"].read()
    assert np.isnan(values[0, :, 0]).all()
    assert (values[0, :, 1] == 0).all()


def test_an_expert_larger_than_a_piece_is_read_whole(tmp_path: Path) -> None:
    blocks = RANDOM.integers(0, 256, (2, 700, 20, 16), np.uint8)
    scales = RANDOM.integers(100, 140, (2, 700, 20), np.uint8)
    tensor = opened(tmp_path, MXFP4, {"up_blocks": blocks, "up_scales": scales}).tensors["up"]
    pieces = [mxfp4_values(blocks[1:, rows], scales[1:, rows])[0] for rows in (slice(0, 3), slice(400, 420))]
    found = tensor.read(1, 2)[0]
    np.testing.assert_array_equal(found[:, 0:3], pieces[0])
    np.testing.assert_array_equal(found[:, 400:420], pieces[1])


def test_scales_of_activations_are_left_out_and_said_so(tmp_path: Path) -> None:
    one = np.ones((), np.float32)
    stored = {"x.weight": CODES, "x.weight_scale": one, "x.input_scale": one, "attn.k_scale": one, "logit_scale": one}
    checkpoint = opened(tmp_path, TENSOR_FP8, stored)
    assert set(checkpoint.tensors) == {"x.weight", "logit_scale"}
    assert checkpoint.notes == (
        "2 scales of activations (x.input_scale the first) are not used: they are for a runtime that rounds activations to 8 bits",
    )


def test_settings_nobody_knows_become_notes(tmp_path: Path) -> None:
    settings = compressed("channel", colour="red") | {"flavour": "sour"}
    stored = {"x.weight": CODES, "x.weight_scale": np.ones((41, 1), np.float32)}
    assert opened(tmp_path, settings, stored).notes == (
        "quantization_config 'flavour' is not known to edgelm and was not used",
        "quantization_config \"config_groups 'group_0'.weights.colour\" is not known to edgelm and was not used",
    )


def test_modules_left_in_float_are_seen_from_their_tensors(tmp_path: Path) -> None:
    plain = RANDOM.standard_normal((8, 8)).astype(np.float32)
    stored = {"x.weight": CODES, "x.weight_scale_inv": SCALES, "y.weight": plain}
    tensors = opened(tmp_path, BLOCK_FP8 | {"modules_to_not_convert": ["x"]}, stored).tensors
    np.testing.assert_array_equal(tensors["y.weight"].read(), plain)
    assert_reads_as(tensors["x.weight"], scaled(CODES, SCALES, (16, 8)))


def test_every_flaw_of_the_tensors_is_listed_at_once(tmp_path: Path) -> None:
    stored = {
        "a.weight": CODES,
        "b.weight": CODES,
        "b.weight_scale_inv": SCALES[:2],
        "c.weight": CODES.astype(ml_dtypes.float8_e5m2),
        "c.weight_scale_inv": SCALES,
        "d.weight": CODES.astype(np.float32),
        "d.weight_scale_inv": SCALES,
        "e.weight_scale_inv": SCALES,
        "f.weight": CODES,
        "f.weight_scale_inv": SCALES.astype(np.int32),
        "g.weight": CODES[0],
        "g.weight_scale_inv": SCALES[0],
        "h.weight": CODES,
        "h.weight_scale_inv": SCALES,
        "h.weight_scale": SCALES,
        "i.weight": CODES[:0],
        "i.weight_scale_inv": SCALES[:0],
    }
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, BLOCK_FP8, stored)
    for part in (
        "config.json: quantization_config 'fp8' does not fit the tensors",
        "'a.weight' lacks its scale ('a.weight_scale_inv' or 'a.weight_scale')",
        "'b.weight_scale_inv' has the shape [2, 4], expected [3, 4] for [41, 27]",
        "'c.weight' is float8_e5m2, by the config it is float8_e4m3fn",
        "'d.weight_scale_inv' scales nothing: 'd.weight' is float32",
        "'e.weight_scale_inv' scales nothing: its weight is not there",
        "'f.weight_scale_inv' is int32, expected one of float32,",
        "'g.weight' has the shape [27], expected rows and columns",
        "'h.weight' has several scales",
        "'i.weight' has the shape [0, 27], expected rows and columns",
    ):
        assert part in str(caught.value)


def test_every_flaw_of_mxfp4_tensors_is_listed_at_once(tmp_path: Path) -> None:
    blocks, scales = np.zeros((2, 3, 1, 16), np.uint8), np.zeros((2, 3, 1), np.uint8)
    stored = {
        "a_blocks": blocks,
        "b_blocks": blocks,
        "b_scales": scales[:1],
        "c_blocks": blocks.astype(np.int8),
        "c_scales": scales,
        "d_blocks": blocks[..., :8],
        "d_scales": scales,
        "e_blocks": blocks,
        "e_scales": scales,
        "e": np.zeros((2, 32, 3), np.float32),
        "f_scales": scales,
    }
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, MXFP4, stored)
    for part in (
        "'a_blocks' lacks its scales ('a_scales')",
        "'b_scales' is uint8 [1, 3, 1], expected uint8 [2, 3, 1]",
        "'c_blocks' is int8 [2, 3, 1, 16], expected uint8 [experts, rows, groups, 16]",
        "'d_blocks' is uint8 [2, 3, 1, 8], expected uint8",
        "'e' is there beside 'e_blocks', which stands for it",
        "'f_scales' scales nothing: 'f_blocks' is not there",
    ):
        assert part in str(caught.value)


def test_a_flaw_in_every_tensor_of_a_large_checkpoint_still_fits_a_message(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'x9\.weight' lacks its scale .* and 1,990 more") as caught:
        opened(tmp_path, BLOCK_FP8, {f"x{i}.weight": CODES[:1, :1] for i in range(2000)})
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BLOCK_FP8 | {"fmt": "e3m4"}, "fmt 'e3m4' is not supported (known: e4m3, e5m2)"),
        (BLOCK_FP8 | {"fmt": ["e4m3"]}, "fmt ['e4m3'] is not supported"),
        (BLOCK_FP8 | {"weight_block_size": [128]}, "weight_block_size is [128], expected two whole numbers from 1"),
        (BLOCK_FP8 | {"weight_block_size": [0, True]}, "weight_block_size is [0, True], expected"),
        (BLOCK_FP8 | {"weight_block_size": 128}, "weight_block_size is 128, expected"),
        (BLOCK_FP8 | {"expert_dtype": "fp4"}, "expert_dtype 'fp4' is not supported (only 'fp8')"),
        (BLOCK_FP8 | {"scale_fmt": "log"}, "scale_fmt 'log' is not supported (only 'float', 'ue8m0')"),
        (compressed("group"), "weights: strategy 'group' is not supported (known: block, channel, tensor)"),
        (compressed("tensor", num_bits=4), "config_groups 'group_0': weights: num_bits 4 is not supported (only 8)"),
        (compressed("tensor", type="int"), "type 'int' is not supported"),
        (compressed("tensor", symmetric=False), "symmetric False is not supported (only True)"),
        (compressed("tensor", dynamic=True), "dynamic True is not supported"),
        (compressed("block"), "block_structure is None, expected two whole numbers from 1"),
        (compressed("block", block_structure="0x8"), "block_structure is [0, 8], expected two whole numbers from 1"),
        (compressed("tensor") | {"format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized' is not supported"),
        (compressed("tensor") | {"sparsity_config": {"format": "sparse-24"}}, "sparsity_config is not supported"),
        (compressed("tensor") | {"transform_config": {"r1": {}}}, "transform_config is not supported"),
        (compressed("tensor") | {"moe_sparsity_config": {"a": 1}}, "moe_sparsity_config is not supported"),
        (compressed("tensor") | {"config_groups": None}, "config_groups is missing or no object of groups"),
        (compressed("tensor") | {"config_groups": {"a": 1}}, "config_groups 'a' is no object"),
        (compressed("tensor") | {"config_groups": {"a": {"weights": 1}}}, "weights is 1, expected an object"),
        (
            compressed("tensor") | {"config_groups": {"a": {"format": "dense", "weights": None}}},
            "config_groups 'a': format 'dense' is not supported",
        ),
        (
            {
                **compressed("tensor"),
                "config_groups": {
                    str(size): compressed("block", block_structure=[size, size])["config_groups"]["group_0"]
                    for size in (64, 128)
                },
            },
            "config_groups have blocks of several sizes",
        ),
    ],
)
def test_settings_that_are_not_supported_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig) as caught:
        opened(tmp_path, settings, {})
    assert f"quantization_config {settings['quant_method']!r} cannot be read: " in str(caught.value)
    assert message in str(caught.value)
    assert "take the unquantized checkpoint" in str(caught.value)


@pytest.mark.parametrize("settings", [{"quant_method": "hqq"}, {"bits": 4}, {"quant_method": ["fp8"]}, "fp8"])
def test_a_method_nobody_knows_leaves_the_checkpoint_as_it_is(tmp_path: Path, settings: Any) -> None:
    checkpoint = opened(tmp_path, settings, {"x.weight": CODES})
    assert checkpoint.config["quantization_config"] == settings
    assert checkpoint.quantization is None


def test_rows_cost_the_memory_of_rows(tmp_path: Path) -> None:
    rows, columns = 1 << 14, 1 << 14
    grid = (rows // 128) * (columns // 128) * 4
    header = {
        "w.weight": {"dtype": "F8_E4M3", "shape": [rows, columns], "data_offsets": [0, rows * columns]},
        "w.weight_scale_inv": {
            "dtype": "F32",
            "shape": [rows // 128, columns // 128],
            "data_offsets": [rows * columns, rows * columns + grid],
        },
    }
    folder = write_hub_folder(tmp_path, {"quantization_config": BLOCK_FP8 | {"weight_block_size": [128, 128]}}, {})
    with (folder / "model.safetensors").open("wb") as handle:  # 256 MiB, none of it on disk
        handle.write(safetensors_bytes(header, b""))
        handle.truncate(handle.tell() + rows * columns + grid)
    tracemalloc.start()
    values = open_checkpoint(folder).tensors["w.weight"].read(1000, 1016)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.shape == (16, columns)
    assert peak < 2 * values.nbytes + (2 << 20)
