"""The decoder on a real program: whatever is reordered, a row's logits are those of its ids alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelm.decode import PREFILL_CHUNK, Decoder
from edgelm.text_generation import DecoderModel

CLOSE = 1e-4


def expected(model: DecoderModel, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    return np.stack([model.logits(row)[-1] for row in rows])


def assert_close(found: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, logits, rtol=0, atol=CLOSE * np.abs(logits).max())


@pytest.mark.parametrize("start", [3, 250])
def test_rows_go_on_from_their_parents(model: DecoderModel, start: int) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 128, start + extra).tolist() for extra in (0, 4)]
    decoder = model.decoder(2)
    for row, logits in decoder.start(rows):
        assert_close(logits[None], expected(model, rows[row : row + 1]))
    for parents in ([0, 0, 0, 1, 1], [1, 0, 2, 4, 3], [0, 0, 1, 3, 4], [0, 1, 2], [2, 2, 0], [1], [0, 0]):
        decoder.reorder(parents)
        rows = [[*rows[parent], int(rng.integers(3, 128))] for parent in parents]
        assert_close(decoder.step([row[-1] for row in rows]), expected(model, rows))
        assert decoder.batch == len(rows)


def test_prompts_of_one_token_start_in_one_step(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = model.decoder(3)
    monkeypatch.setattr(decoder, "prefill", None)
    prompts = [[5], [9], [7]]
    logits = np.stack([logits for _, logits in decoder.start(prompts)])
    assert_close(logits, expected(model, prompts))


def test_an_order_that_changes_nothing_binds_nothing_anew(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = model.decoder(2)
    for _ in decoder.start([[5, 6], [7, 8, 9]]):
        pass
    decoder.step([3, 4])
    monkeypatch.setattr(decoder, "_call", None)
    decoder.reorder([0, 1])
    decoder.step([3, 4])
    decoder.reorder([1, 1])
    assert_close(decoder.step([5, 6]), expected(model, [[7, 8, 9, 4, 4, 5], [7, 8, 9, 4, 4, 6]]))


class Recorded:
    """A memory that notes what it is asked; the programs of decoders have no input for one."""

    def __init__(self, moved: bool) -> None:
        self.asked: list[Any] = []
        self._moved = moved

    def inputs(self, start: int, stop: int) -> Mapping[str, NDArray[Any]]:
        self.asked.append((start, stop))
        return {}

    def reorder(self, parents: Sequence[int]) -> bool:
        self.asked.append(list(parents))
        return self._moved


@pytest.mark.parametrize(("moved", "bound"), [(False, []), (True, [(0, 2)])])
def test_a_memory_is_reordered_with_the_rows_and_bound_anew_if_it_moved(
    model: DecoderModel, moved: bool, bound: list[tuple[int, int]]
) -> None:
    manifest, memory = model.package.manifest, Recorded(moved)
    program = model._program  # pyright: ignore[reportPrivateUsage]
    decoder = Decoder(program, manifest.kv_cache, manifest.vocab_size, batch=2, limit=64, memory=memory)
    assert decoder.limit == 64
    for _ in decoder.start([[5, 6], [7, 8]]):
        pass
    decoder.step([3, 4])
    assert memory.asked == [(0, 1), (1, 2), (0, 2)]
    decoder.reorder([1, 0])
    decoder.step([3, 4])
    assert memory.asked[3:] == [[1, 0], *bound]


def test_rows_are_cut_copied_and_join_another_decoder(model: DecoderModel) -> None:
    ids = np.random.default_rng(3).integers(3, 128, 20).tolist()
    decoder = model.decoder(1)
    decoder.prefill(0, ids)
    assert decoder.holds(0, 12, 40)
    copied = decoder.copy(0, 12)
    decoder.truncate(0, 15)
    assert (decoder.ids, copied.ids) == ([ids[:15]], [ids[:12]])
    assert decoder.append(copied) == 1
    rows = [[*ids[:15], 9], [*ids[:12], 8]]
    assert_close(decoder.step([9, 8]), expected(model, rows))
    left = decoder.detach(1)
    assert left is not decoder
    assert_close(left.step([7]), expected(model, [[*rows[1], 7]]))
    alone = model.decoder(1)
    assert alone.detach(0) is alone


def test_several_tokens_follow_a_past_and_may_be_taken_back(model: DecoderModel) -> None:
    decoder = model.decoder(1)
    decoder.prefill(0, [5, 6, 7])
    guessed = np.concatenate(list(decoder.all_logits(0, [8, 9, 10])))
    assert_close(guessed, model.logits([5, 6, 7, 8, 9, 10])[3:])
    decoder.truncate(0, 4)
    assert_close(decoder.step([11]), expected(model, [[5, 6, 7, 8, 11]]))


def test_a_prompt_of_several_chunks_gets_its_room_at_once(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, program = model.package.manifest, model._program  # pyright: ignore[reportPrivateUsage]
    decoder = Decoder(program, manifest.kv_cache, manifest.vocab_size, batch=1, limit=model.max_length)
    rebuild, sizes = decoder.cache._rebuild, list[int]()  # pyright: ignore[reportPrivateUsage]

    def noted(parents: Sequence[int], rows: int, max_length: int) -> None:
        sizes.append(max_length)
        rebuild(parents, rows, max_length)

    monkeypatch.setattr(decoder.cache, "_rebuild", noted)
    ids = np.random.default_rng(4).integers(3, 128, 2 * PREFILL_CHUNK + 140).tolist()
    assert_close(decoder.prefill(0, ids)[None], expected(model, [ids]))
    assert sizes == [model.max_length]
