"""Logits at a mask to tokens, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from edgelm.errors import InvalidOption
from edgelm.mask_filling import Masks, best_tokens, filled_text, find_targets
from edgelm.tokenizer import Tokenizer
from tests.runtime.encoders import TOKENIZER_CONFIG, TOKENS, tokenizer_json

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(Backend.from_str(tokenizer_json()), TOKENIZER_CONFIG)


def test_the_likeliest_tokens_come_first() -> None:
    found = best_tokens(LOGITS, 3)
    assert [token for token, _ in found] == [1, 3, 2]
    assert [score for _, score in found] == pytest.approx([0.4, 0.3, 0.2])
    assert len(best_tokens(LOGITS, 99)) == 4


def test_scores_among_a_few_are_those_among_all() -> None:
    found = best_tokens(LOGITS + 7, 9, np.array([2, 0]))
    assert [token for token, _ in found] == [2, 0]
    assert [score for _, score in found] == pytest.approx([0.2, 0.1])


def test_equal_tokens_keep_the_order_of_their_ids() -> None:
    assert [token for token, _ in best_tokens(np.zeros(4, np.float32), 4)] == [0, 1, 2, 3]


def test_logits_far_apart_do_not_overflow() -> None:
    assert best_tokens(np.array([1e4, -1e4], np.float32), 2) == [(0, 1.0), (1, 0.0)]
    assert not math.isnan(best_tokens(np.array([-1e30, -1e30], np.float32), 1)[0][1])


def test_masks_are_found_by_their_id(tokenizer: Tokenizer) -> None:
    masks = Masks.of(tokenizer)
    assert (masks.token, masks.token_id) == ("[MASK]", TOKENS.index("[MASK]"))
    assert masks.find([2, 4, 9, 4, 3], 0) == (1, 3)
    with pytest.raises(InvalidOption, match=r"text 7 has no \[MASK\] to fill"):
        masks.find([2, 3], 7)


def test_a_filled_text_has_no_special_tokens_but_other_masks(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("[MASK] lives in [MASK]")
    token = TOKENS.index("anna")
    assert filled_text(ids, 1, token, tokenizer) == "anna lives in [MASK]"
    assert filled_text(ids, 4, token, tokenizer) == "[MASK] lives in anna"
    assert filled_text(ids, 4, TOKENS.index("[SEP]"), tokenizer) == "[MASK] lives in"


def test_targets_are_found_once_each(tokenizer: Tokenizer) -> None:
    found = find_targets(["Anna", "##ing", "anna"], tokenizer, len(TOKENS))
    assert found.tolist() == [TOKENS.index("anna"), TOKENS.index("##ing")]
    assert find_targets("anna", tokenizer, len(TOKENS)).tolist() == [TOKENS.index("anna")]


def test_a_token_beyond_the_model_is_no_target(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidOption, match="target 'anna' is not one token of the model but anna; choose others"):
        find_targets("anna", tokenizer, TOKENS.index("anna"))
