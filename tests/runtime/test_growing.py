"""Rows on a program whose cache grows: whatever is batched or reordered, a row's logits are those of its ids alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import edgelm
from edgelm.errors import ContextOverflow, ManifestError
from edgelm.growing import PREFILL_CHUNK, GrowingDecoder
from edgelm.growing_seq2seq import GrowingSeq2Seq
from edgelm.manifest import sealed
from edgelm.text_generation import DecoderModel
from edgelm.text_to_text import Seq2SeqModel
from tests.runtime.growing_models import LONGEST, VOCAB, decoder_package, logits, seq2seq_package

CLOSE = 1e-5
SOURCES = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DecoderModel:
    return edgelm.load(decoder_package(tmp_path_factory.mktemp("growing") / "package"), threads=1)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Seq2SeqModel:
    return edgelm.load(seq2seq_package(tmp_path_factory.mktemp("growing") / "package"), threads=1)


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


def last(rows: Sequence[Sequence[int]], sources: Sequence[Sequence[int] | None] | None = None) -> NDArray[np.float32]:
    pairs = zip(rows, sources or [None] * len(rows), strict=True)
    return np.stack([logits(row, source)[-1] for row, source in pairs])


def decoder_of(model: DecoderModel, batch: int) -> GrowingDecoder:
    return cast(GrowingDecoder, model.decoder(batch))


def test_the_manifest_decides_which_loop_runs(model: DecoderModel, translator: Seq2SeqModel) -> None:
    assert isinstance(model.decoder(1), GrowingDecoder)
    assert isinstance(translator._programs, GrowingSeq2Seq)  # pyright: ignore[reportPrivateUsage]


def test_logits_of_every_position_are_right_in_one_piece_and_in_several(model: DecoderModel) -> None:
    ids = np.random.default_rng(0).integers(3, VOCAB, 40).tolist()
    assert len(ids) < PREFILL_CHUNK
    assert_close(model.logits(ids), logits(ids))
    assert_close(np.concatenate(list(model.decoder(1).all_logits(0, ids, 7))), logits(ids))


def test_a_prompt_may_be_longer_than_a_chunk(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelm.growing.PREFILL_CHUNK", 16)
    ids = np.random.default_rng(0).integers(3, VOCAB, 40).tolist()
    assert_close(model.decoder(1).prefill(0, ids), logits(ids)[-1])


def test_rows_of_different_lengths_go_on_from_their_parents(model: DecoderModel) -> None:
    rng = np.random.default_rng(0)
    rows: list[list[int]] = [rng.integers(3, VOCAB, length).tolist() for length in (3, 7, 3)]
    decoder = decoder_of(model, 3)
    for row, found in decoder.start(rows):
        assert_close(found[None], last(rows[row : row + 1]))
    for parents in ([0, 1, 2], [2, 1, 0], [0, 0, 0, 1, 1], [4, 3, 0, 1, 2], [1, 0, 1], [2], [0, 0]):
        decoder.reorder(parents)
        rows = [[*rows[parent], int(rng.integers(3, VOCAB))] for parent in parents]
        assert_close(decoder.step([row[-1] for row in rows]), last(rows))
        assert decoder.ids == rows
        assert decoder.batch == len(rows)


@pytest.mark.parametrize("length", [20, 7, 3])
def test_a_row_that_was_cut_has_memory_of_its_own(model: DecoderModel, length: int) -> None:
    ids = np.random.default_rng(2).integers(3, VOCAB, 20).tolist()
    decoder = decoder_of(model, 1)
    decoder.prefill(0, ids)
    decoder.truncate(0, length)
    others = [decoder_of(model, 1) for _ in range(20)]
    for other in others:  # takes memory that was freed by mistake
        other.prefill(0, ids[::-1])
    assert decoder.ids == [ids[:length]]
    assert_close(decoder.step([5]), last([[*ids[:length], 5]]))


def test_rows_of_one_length_run_in_one_call(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(model, 3)
    for _ in decoder.start([[5, 6], [7, 8], [7, 8, 9]]):
        pass
    sizes: list[int] = []
    feed = decoder._feed  # pyright: ignore[reportPrivateUsage]

    def counted(group: Any, ids: NDArray[np.int64], asked: int) -> NDArray[np.float32]:
        sizes.append(len(ids))
        return feed(group, ids, asked)

    monkeypatch.setattr(decoder, "_feed", counted)
    assert_close(decoder.step([3, 4, 5]), last([[5, 6, 3], [7, 8, 4], [7, 8, 9, 5]]))
    assert sizes == [2, 1]


def test_a_row_that_is_fed_more_leaves_its_group(model: DecoderModel) -> None:
    decoder = decoder_of(model, 2)
    for _ in decoder.start([[5], [9]]):
        pass
    assert_close(decoder.prefill(1, [7, 8])[None], last([[9, 7, 8]]))
    assert decoder.ids == [[5], [9, 7, 8]]
    assert_close(decoder.step([3, 4]), last([[5, 3], [9, 7, 8, 4]]))


def test_an_order_that_changes_nothing_copies_nothing(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(model, 2)
    for _ in decoder.start([[5, 6], [7, 8, 9]]):
        pass
    monkeypatch.setattr("edgelm.growing._picked", None)
    decoder.reorder([0, 1])
    assert_close(decoder.step([3, 4]), last([[5, 6, 3], [7, 8, 9, 4]]))


def test_more_positions_than_the_model_was_loaded_for_are_refused(model: DecoderModel) -> None:
    decoder = model.decoder(1)
    decoder.prefill(0, [5] * LONGEST)
    with pytest.raises(ContextOverflow, match=r"65 positions are needed and this model was loaded for 64"):
        decoder.step([5])


def test_a_batch_generates_what_each_prompt_does_alone(model: DecoderModel) -> None:
    prompts = [[5, 6, 7], [8], [9, 10, 11], [12, 13, 14, 15]]
    for options in ({}, {"num_beams": 3}, {"num_return_sequences": 2, "temperature": 1.0, "seed": 3}):
        together = model.generate(prompts, max_new_tokens=8, **options)
        alone = [model.generate(prompt, max_new_tokens=8, **options) for prompt in prompts]
        assert _ids(together) == _ids(alone)


def test_greedy_tokens_are_those_of_the_whole_sequence_anew(model: DecoderModel) -> None:
    ids = [5, 6, 7]
    for _ in range(10):
        ids.append(int(logits(ids)[-1].argmax()))
    assert model.generate([5, 6, 7], max_new_tokens=10, eos_token_id=[]).token_ids == ids[3:]


def test_targets_of_ragged_sources_are_right(translator: Seq2SeqModel) -> None:
    for source in SOURCES:
        target = [1, 40, 41, 42]
        assert_close(translator.logits(source, target), logits(target, source))
    rows = [[1], [1], [1]]
    decoder = translator._programs.start(SOURCES)  # pyright: ignore[reportPrivateUsage]
    for row, found in decoder.start(rows):
        assert_close(found[None], last([rows[row]], [SOURCES[row]]))
    read, rng = SOURCES, np.random.default_rng(1)
    for parents in ([0, 1, 2], [0, 0, 1, 1, 2], [1, 0, 2, 3, 4], [4, 2], [1, 1]):
        decoder.reorder(parents)
        rows = [[*rows[parent], int(rng.integers(3, VOCAB))] for parent in parents]
        read = [read[parent] for parent in parents]
        assert_close(decoder.step([row[-1] for row in rows]), last(rows, read))


def test_a_target_may_be_fed_in_several_pieces(translator: Seq2SeqModel) -> None:
    decoder = translator._programs.start(SOURCES[:1])  # pyright: ignore[reportPrivateUsage]
    decoder.prefill(0, [1, 40])
    found = np.concatenate(list(decoder.all_logits(0, [41, 42, 43])))
    assert_close(found, logits([1, 40, 41, 42, 43], SOURCES[0])[2:])


def test_beams_of_one_source_share_what_they_read(translator: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = translator._programs.start(SOURCES[:1])  # pyright: ignore[reportPrivateUsage]
    for _ in decoder.start([[1]]):
        pass
    decoder.reorder([0, 0, 0])
    (before,) = decoder._groups  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    decoder.reorder([2, 0, 1])
    (after,) = decoder._groups  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    assert after.memory is before.memory
    assert after.past is not before.past


def test_a_batch_translates_as_each_source_does_alone(translator: Seq2SeqModel) -> None:
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        together = translator.generate(SOURCES, max_new_tokens=8, **options)
        alone = [translator.generate(source, max_new_tokens=8, **options) for source in SOURCES]
        assert _ids(together) == _ids(alone)


def test_graphs_of_an_unknown_exporter_are_not_run(tmp_path: Path) -> None:
    folder = decoder_package(tmp_path / "package")
    manifest = folder / "edgelm.json"
    manifest.write_text(sealed(json.loads(manifest.read_text()) | {"exporter": "newer"}))
    with pytest.raises(ManifestError, match="graphs of exporter 'newer' are not known to this edgelm; update it"):
        edgelm.load(folder)


def _ids(found: Any) -> Any:
    return [_ids(one) for one in found] if isinstance(found, list) else found.token_ids
