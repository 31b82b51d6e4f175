"""bitsandbytes checkpoints: codes of a table and int8 rows, worked out value by value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelm.errors import CheckpointError
from edgelm_export.checkpoint import LazyTensor, open_checkpoint
from tests.export.builders import write_hub_folder

RANDOM = np.random.default_rng(4)
FOUR_BIT = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"}
EIGHT_BIT = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}
SHAPE, BLOCK = (6, 35), 16  # rows begin within bytes and blocks
STATE = "x.weight.quant_state.bitsandbytes__nf4"


def tensor(folder: Path, settings: Mapping[str, Any], stored: Mapping[str, NDArray[Any]]) -> LazyTensor:
    return open_checkpoint(write_hub_folder(folder, {"quantization_config": settings}, stored)).tensors["x.weight"]


def as_bytes(state: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(state).encode(), np.uint8)


def four_bit(*, nested: bool) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    codes = RANDOM.integers(0, 16, SHAPE).reshape(-1)
    table = np.sort(RANDOM.standard_normal(16)).astype(np.float32)
    blocks = -(-codes.size // BLOCK)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "float32", "shape": list(SHAPE)}
    stored: dict[str, NDArray[Any]] = {
        "x.weight": (codes[0::2] << 4 | codes[1::2]).astype(np.uint8)[:, None],
        "x.weight.quant_map": table,
        "x.weight.absmax": RANDOM.random(blocks).astype(np.float32),
    }
    sizes = stored["x.weight.absmax"]
    if nested:
        outer, outer_table = RANDOM.random(-(-blocks // 4)).astype(np.float32), RANDOM.random(256).astype(np.float32)
        inner = RANDOM.integers(0, 256, blocks).astype(np.uint8)
        stored |= {"x.weight.absmax": inner, "x.weight.nested_absmax": outer, "x.weight.nested_quant_map": outer_table}
        state |= {"nested_blocksize": 4, "nested_dtype": "float32", "nested_offset": 0.25}
        sizes = outer_table[inner] * outer[np.arange(blocks) // 4] + np.float32(0.25)
    values: NDArray[Any] = table[codes] * sizes[np.arange(codes.size) // BLOCK]
    return stored | {STATE: as_bytes(state)}, values.reshape(SHAPE)


@pytest.mark.parametrize("nested", [False, True])
def test_codes_of_a_table_read_as_its_values(tmp_path: Path, nested: bool) -> None:
    stored, expected = four_bit(nested=nested)
    found = tensor(tmp_path, FOUR_BIT, stored)
    assert (found.dtype, found.shape) == ("nf4", SHAPE)
    for start, stop in ((0, None), (1, 2), (3, 6), (5, None)):
        np.testing.assert_array_equal(found.read(start, stop), expected[start:stop])


def test_int8_rows_read_as_the_library_dequantizes_them(tmp_path: Path) -> None:
    codes, scale = RANDOM.integers(-127, 128, SHAPE).astype(np.int8), RANDOM.random(6).astype(np.float32)
    found = tensor(tmp_path, EIGHT_BIT, {"x.weight": codes, "x.SCB": scale, "x.weight_format": np.zeros((), np.uint8)})
    np.testing.assert_array_equal(found.read(), codes * scale[:, None] * np.float32(1 / 127))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({STATE: as_bytes([1])}, "is no JSON object"),
        ({STATE: np.zeros(9, np.uint8)}, "is no JSON (what only the headers were fetched of cannot be inspected)"),
        ({STATE: np.zeros(9, np.int8)}, "is int8 [9], expected a little JSON in uint8"),
        ({STATE: as_bytes({"shape": [6, -1], "blocksize": 16})}, "has no shape [rows, columns], blocksize"),
        ({STATE: as_bytes({"shape": [6, 35], "blocksize": 1 << 40})}, "has no shape [rows, columns], blocksize"),
        (
            {STATE: as_bytes({"shape": [6, 35], "blocksize": 16, "nested_blocksize": 4, "nested_offset": "1"})},
            "has the nested_offset '1', expected a number",
        ),
        (
            {STATE: as_bytes({"shape": [6, 36], "blocksize": 16})},
            "'x.weight' is uint8 [105, 1], expected uint8 [108, 1]",
        ),
        ({"y.weight.absmax": np.zeros(3, np.float32)}, "'y.weight.absmax' is of no use"),
    ],
)
def test_states_that_cannot_be_true_are_refused(tmp_path: Path, change: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        tensor(tmp_path, FOUR_BIT, four_bit(nested=False)[0] | change)
    assert message in str(caught.value)
