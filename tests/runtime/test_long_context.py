"""Rows that outgrow the short context of a LongRoPE: which, when, and what they are fed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgelm
from edgelm import decode
from edgelm.long_context import LongContext
from edgelm.text_generation import DecoderModel

GOLDEN = Path(__file__).parents[1] / "golden" / "phi3-longrope"
LIMIT = 48  # its short context
IDS = np.random.default_rng(1).integers(3, 128, 60).tolist()
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DecoderModel:
    out = tmp_path_factory.mktemp("phi3") / "package"
    edgelm.export(GOLDEN, out, precision="fp32", verify=False)
    return edgelm.load(out, device="cpu", threads=1)


def test_a_row_turns_once_when_it_outgrows_the_limit() -> None:
    rows = LongContext(4, 2)
    assert [rows.turns(0, length) for length in (3, 4, 5, 6)] == [False, False, True, False]
    assert rows.flags(0, 2).tolist() == [1, 0]


def test_a_row_that_was_cut_turns_back() -> None:
    rows = LongContext(4, 1)
    assert rows.turns(0, 6)
    assert (rows.fits(0, 5), rows.fits(0, 4)) == (True, False)
    assert rows.turns(0, 4)
    assert rows.flags(0, 1).tolist() == [0]


def test_rows_go_on_from_their_parents_apart() -> None:
    rows = LongContext(2, 2)
    rows.turns(0, 3)
    rows.reorder([0, 1, 1])
    assert [rows.turns(row, 3) for row in range(3)] == [False, True, True]
    rows.append(LongContext(2, 1))
    assert rows.flags(0, 4).tolist() == [1, 1, 1, 0]


def test_steps_across_the_limit_equal_one_prefill(model: DecoderModel) -> None:
    assert model.package.manifest.kv_cache.short_context == LIMIT
    decoder = model.decoder(1)
    decoder.prefill(0, IDS[:40])
    for length in range(41, len(IDS) + 1):
        found = decoder.step([IDS[length - 1]])[0]
        assert _distance(found, model.logits(IDS[:length])[-1]) < TOLERANCE, length


def test_a_second_prompt_across_the_limit_equals_one_prefill(model: DecoderModel) -> None:
    decoder = model.decoder(1)
    decoder.prefill(0, IDS[:40])
    assert _distance(decoder.prefill(0, IDS[40:]), model.logits(IDS)[-1]) < TOLERANCE


def test_a_long_prompt_in_small_pieces_equals_one_prefill(model: DecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.logits(IDS)
    assert _distance(np.concatenate(list(model.decoder(1).all_logits(0, IDS, 7))), expected) < TOLERANCE
    monkeypatch.setattr(decode, "PREFILL_CHUNK", 7)
    assert _distance(model.decoder(1).prefill(0, IDS), expected[-1]) < TOLERANCE


def test_a_row_that_was_cut_is_fed_again_with_the_keys_of_its_new_length(model: DecoderModel) -> None:
    decoder = model.decoder(1)
    decoder.prefill(0, IDS)
    decoder.truncate(0, 50)
    assert _distance(decoder.step([IDS[50]])[0], model.logits(IDS[:51])[-1]) < TOLERANCE
    decoder.truncate(0, 40)
    assert _distance(decoder.step([IDS[40]])[0], model.logits(IDS[:41])[-1]) < TOLERANCE
    assert decoder.ids == [IDS[:41]]


def test_both_sets_of_positions_matter(model: DecoderModel) -> None:
    """What stands before the limit is read otherwise once there is something behind it."""
    assert _distance(model.logits(IDS)[LIMIT - 1], model.logits(IDS[:LIMIT])[-1]) > 100 * TOLERANCE


def test_rows_of_a_batch_cross_on_their_own(model: DecoderModel) -> None:
    prompts = [IDS[:46], IDS[:10], IDS[2:50]]
    decoder = model.decoder(len(prompts))
    for row, prompt in enumerate(prompts):
        decoder.prefill(row, prompt)
    for step in range(1, 6):
        found = decoder.step([IDS[50 + step]] * len(prompts)).copy()
        for row, prompt in enumerate(prompts):
            expected = model.logits([*prompt, *IDS[51 : 51 + step]])[-1]
            assert _distance(found[row], expected) < TOLERANCE


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
