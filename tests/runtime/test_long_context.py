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


def test_a_row_is_fed_again_once_when_it_outgrows_the_limit() -> None:
    rows = LongContext(4, 2)
    assert rows.grow(0, [1, 2, 3]) == []
    assert rows.grow(0, [4]) == []
    assert rows.flags(0, 2).tolist() == [0, 0]
    assert rows.grow(0, [5]) == [1, 2, 3, 4]
    assert rows.grow(0, [6]) == []
    assert rows.flags(0, 2).tolist() == [1, 0]


def test_a_prompt_that_is_long_at_once_has_nothing_before_it() -> None:
    rows = LongContext(4, 1)
    assert rows.grow(0, [1, 2, 3, 4, 5]) == []
    assert rows.flags(0, 1).tolist() == [1]


def test_rows_go_on_from_their_parents_apart() -> None:
    rows = LongContext(2, 2)
    rows.grow(0, [1, 2])
    rows.grow(1, [3])
    rows.reorder([0, 0, 1])
    assert rows.grow(0, [4]) == [1, 2]
    assert rows.grow(1, [5]) == [1, 2]
    assert rows.grow(2, [6]) == []
    assert rows.flags(0, 3).tolist() == [1, 1, 0]


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
