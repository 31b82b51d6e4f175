"""Accounts of a checkpoint's tensors: all problems of a kind are listed at once, before anything is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelm.errors import CheckpointError, MissingWeights, UnusedWeights, WrongShape
from edgelm_export.checkpoint.base import Checkpoint, LazyTensor
from edgelm_export.names import Rows, Source, joined, name_map, per_layer, source_of
from edgelm_export.transforms import unpermute_rope
from edgelm_export.weights import Weights, not_finite

NAMES = name_map({"head": "out"} | per_layer("blk.{i}.", {"q_proj": Source("attn_q", unpermute_rope(2))}))


def checkpoint(**arrays: np.ndarray) -> Checkpoint:
    tensors = {
        name.replace("_W", ".weight").replace("__", "."): LazyTensor(name, "float32", a.shape, lambda i, j, a=a: a[i:j])
        for name, a in arrays.items()
    }
    return Checkpoint("hf", {}, {}, tensors, (Path("model.safetensors"),), dict)


def test_names_resolve_by_layer() -> None:
    assert source_of(NAMES, "head.weight").name == "out.weight"
    assert source_of(NAMES, "layers.12.q_proj.bias").name == "blk.12.attn_q.bias"


def test_missing_tensors_are_listed_together() -> None:
    weights = Weights(checkpoint(), NAMES, {})
    weights.get("head.weight", (4, 2))
    weights.get("layers.0.q_proj.weight", (4, 2))
    with pytest.raises(
        MissingWeights, match=r"head.weight <- out.weight \[4, 2\]; layers.0.q_proj.weight <- blk.0.attn_q.weight"
    ):
        weights.finish()


def test_wrong_shapes_are_listed_with_both_shapes() -> None:
    weights = Weights(checkpoint(out_W=np.zeros((3, 2), np.float32)), NAMES, {})
    weights.get("head.weight", (4, 2))
    with pytest.raises(WrongShape, match=r"head.weight <- out.weight: \[3, 2\] in the file, \[4, 2\] by the config"):
        weights.finish()


def test_unused_tensors_are_errors_unless_ignored_for_a_reason() -> None:
    source = checkpoint(out_W=np.zeros((4, 2), np.float32), extra=np.zeros(1, np.float32))
    weights = Weights(source, NAMES, {})
    weights.get("head.weight", (4, 2))
    with pytest.raises(UnusedWeights, match="extra"):
        weights.finish()
    weights = Weights(source, NAMES, {"ex*": "a reason"})
    weights.get("head.weight", (4, 2))
    weights.finish()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_their_tensor(bad: float) -> None:
    array = np.zeros((4, 2), np.float32)
    array[3, 1] = bad
    weight = Weights(checkpoint(out_W=array), NAMES, {}).get("head.weight", (4, 2))
    with pytest.raises(CheckpointError, match=r"head.weight <- .* holds NaN or infinity"):
        list(weight.chunks(not_finite))


def test_huge_finite_values_pass() -> None:
    array = np.full((64, 64), 3e38, np.float32)
    weight = Weights(checkpoint(out_W=array), NAMES, {}).get("head.weight", (64, 64))
    np.testing.assert_array_equal(weight.read(), array)


def test_unpermuting_undoes_the_permutation_of_llama_cpp() -> None:
    heads, size, columns = 2, 8, 3
    original = np.arange(heads * size * columns, dtype=np.float32).reshape(heads * size, columns)
    permuted = original.reshape(heads, 2, size // 2, columns).swapaxes(1, 2).reshape(heads * size, columns)
    np.testing.assert_array_equal(unpermute_rope(heads)(permuted), original)
    np.testing.assert_array_equal(unpermute_rope(heads)(permuted[:, 0]), original[:, 0])


def test_chunks_join_to_the_whole() -> None:
    array = np.random.default_rng(0).standard_normal((5000, 1000)).astype(np.float32)
    pieces = list(Weights(checkpoint(out_W=array), NAMES, {}).get("head.weight", (5000, 1000)).chunks(not_finite))
    assert len(pieces) > 1
    np.testing.assert_array_equal(np.concatenate(pieces), array)


FUSED = name_map(per_layer("h.{i}.", joined("qkv", {"q_proj": 4, "k_proj": 2, "v_proj": 2})))
WHOLE = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
PARTS = {"q_proj": WHOLE[:4], "k_proj": WHOLE[4:6], "v_proj": WHOLE[6:]}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_fused_tensor_are_its_rows_and_no_others_are_read(name: str) -> None:
    read: list[tuple[int, int]] = []

    def rows(start: int, stop: int) -> np.ndarray:
        read.append((start, stop))
        return WHOLE[start:stop]

    tensors = {
        "h.5.qkv.weight": LazyTensor("h.5.qkv.weight", "float32", (8, 3), rows),
        "h.5.qkv.bias": LazyTensor("h.5.qkv.bias", "float32", (8,), lambda i, j: WHOLE[i:j, 0]),
    }
    weights = Weights(Checkpoint("hf", {}, {}, tensors, (Path("model.safetensors"),), dict), FUSED, {})
    weight, bias = (
        weights.get(f"layers.5.{name}.{leaf}", PARTS[name].shape[:n]) for leaf, n in (("weight", 2), ("bias", 1))
    )
    weights.finish()
    np.testing.assert_array_equal(weight.read(), PARTS[name])
    np.testing.assert_array_equal(np.concatenate(list(weight.chunks(not_finite))), PARTS[name])
    np.testing.assert_array_equal(np.concatenate([part() for part in weight.promised(not_finite, 8)]), PARTS[name])
    np.testing.assert_array_equal(bias.read(), PARTS[name][:, 0])
    first = int(PARTS[name][0, 0]) // 3
    assert set(read) == {(first, first + len(PARTS[name]))}


@pytest.mark.parametrize("rows", [4, 7, 16])
def test_a_fused_tensor_of_another_size_is_wrong_even_where_a_part_would_fit(rows: int) -> None:
    weights = Weights(checkpoint(h__0__qkv_W=np.zeros((rows, 3), np.float32)), FUSED, {})
    weights.get("layers.0.q_proj.weight", (4, 3))
    message = rf"layers.0.q_proj.weight <- h.0.qkv.weight: \[{rows}, 3\] in the file, \[8, 3\] by the config"
    with pytest.raises(WrongShape, match=message):
        weights.finish()


def test_a_fused_tensor_that_is_missing_is_missed_as_a_whole() -> None:
    weights = Weights(checkpoint(), FUSED, {})
    weights.get("layers.0.v_proj.weight", (2, 3))
    with pytest.raises(MissingWeights, match=r"layers.0.v_proj.weight <- h.0.qkv.weight \[8, 3\]"):
        weights.finish()


def test_a_transform_comes_before_the_choice_of_rows() -> None:
    names = name_map(joined("qkv", {"q_proj": 5, "k_proj": 3}, lambda x: x[::-1]))
    weights = Weights(checkpoint(qkv_W=WHOLE), names, {})
    weight = weights.get("k_proj.weight", (3, 3))
    np.testing.assert_array_equal(weight.read(), WHOLE[::-1][5:])
    np.testing.assert_array_equal(np.concatenate(list(weight.chunks(not_finite))), WHOLE[::-1][5:])
    np.testing.assert_array_equal(np.concatenate([part() for part in weight.promised(not_finite, 2)]), WHOLE[::-1][5:])


def test_rows_may_be_columns_of_ours_and_no_others_are_read() -> None:
    read: list[tuple[int, int]] = []

    def rows(start: int, stop: int) -> np.ndarray:
        read.append((start, stop))
        return WHOLE[start:stop]

    tensors = {"both.weight": LazyTensor("both.weight", "float32", (8, 3), rows)}
    names = {"up": Source("both", rows=Rows(2, 6, 8), turned=True)}
    weights = Weights(Checkpoint("hf", {}, {}, tensors, (Path("model.safetensors"),), dict), names, {})
    weight = weights.get("up.weight", (3, 4))
    weights.finish()
    np.testing.assert_array_equal(weight.read(), WHOLE[2:6].T)
    np.testing.assert_array_equal(np.concatenate(list(weight.chunks(not_finite))), WHOLE[2:6].T)
    np.testing.assert_array_equal(np.concatenate([part() for part in weight.promised(not_finite, 2)]), WHOLE[2:6].T)
    assert set(read) == {(2, 6)}
