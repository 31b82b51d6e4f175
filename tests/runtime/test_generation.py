"""Beams and several results for a prompt, as the facade gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgelm.errors import InvalidOption
from edgelm.text_generation import DecoderModel, Generation

PROMPT = "the rain in Spain"
PROMPTS = ["a", PROMPT, "the quick brown fox jumps over the lazy dog"]
BEAMS: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 10}


def test_beams_find_a_likelier_text_than_greedy(model: DecoderModel) -> None:
    greedy = model.generate(PROMPT, temperature=0, max_new_tokens=10)
    best = model.generate(PROMPT, **BEAMS)
    assert isinstance(best, Generation)
    assert (best.finish_reason, len(best.token_ids)) == ("length", 10)
    assert best.text == model.tokenizer.decode(best.token_ids)
    assert best.score == pytest.approx(_log_probability(model, best.token_ids) / 10, abs=1e-4)
    assert best.score is not None
    assert best.score > _log_probability(model, greedy.token_ids) / 10
    assert greedy.score is None


def _log_probability(model: DecoderModel, tokens: list[int]) -> float:
    prompt = model.tokenizer.encode(PROMPT)
    logits = model.logits([*prompt, *tokens])[len(prompt) - 1 : -1].astype(np.float64)
    logits -= np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) + logits.max(
        -1, keepdims=True
    )
    return float(logits[np.arange(len(tokens)), tokens].sum())


def test_a_batch_of_beams_equals_single_runs(model: DecoderModel) -> None:
    ends = tuple(model.generate(prompt, **BEAMS).token_ids[4] for prompt in PROMPTS[:2])
    options = {**BEAMS, "eos_token_id": ends, "early_stopping": True}
    alone = [model.generate(prompt, **options) for prompt in PROMPTS]
    batch = model.generate(PROMPTS, **options)
    assert [one.token_ids for one in batch] == [one.token_ids for one in alone]
    np.testing.assert_allclose([one.score for one in batch], [one.score for one in alone], atol=1e-4)  # type: ignore[misc]
    assert "stop" in {one.finish_reason for one in batch}


def test_several_results_are_a_list_in_the_place_of_each(model: DecoderModel) -> None:
    found = model.generate(PROMPT, **BEAMS, num_return_sequences=3)
    assert len(found) == 3
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len({tuple(one.token_ids) for one in found}) == 3
    assert found[0].token_ids == model.generate(PROMPT, **BEAMS).token_ids
    batch = model.generate(PROMPTS, **BEAMS, num_return_sequences=2)
    assert [len(results) for results in batch] == [2, 2, 2]
    assert batch[1][1].token_ids == found[1].token_ids


def test_several_samples_of_a_prompt_differ_and_a_seed_repeats_them(model: DecoderModel) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "seed": 3, "max_new_tokens": 8}
    found = model.generate(PROMPTS, **options, num_return_sequences=3)
    tokens = [[one.token_ids for one in results] for results in found]
    assert tokens == [[one.token_ids for one in model.generate(p, **options, num_return_sequences=3)] for p in PROMPTS]
    assert [results[0] for results in tokens] == [one.token_ids for one in model.generate(PROMPTS, **options)]
    assert all(len({tuple(one) for one in results}) == 3 for results in tokens)


def test_samples_may_end_at_different_times(model: DecoderModel) -> None:
    options: dict[str, Any] = {
        "temperature": 2.0,
        "seed": 5,
        "max_new_tokens": 12,
        "eos_token_id": tuple(range(40, 60)),
    }
    found = model.generate([PROMPT, "b"], **options, num_return_sequences=5)
    assert len({len(one.token_ids) for results in found for one in results}) > 2
    single = model.generate("b", **options, num_return_sequences=5)
    assert [one.token_ids for one in found[1]] == [one.token_ids for one in single]


def test_metrics_of_beams_are_those_of_the_result(model: DecoderModel) -> None:
    metrics = model.generate(PROMPT, **BEAMS).metrics
    assert (metrics.prompt_tokens, metrics.new_tokens) == (len(model.tokenizer.encode(PROMPT)), 10)
    for value in (
        metrics.ttft_ms,
        metrics.tpot_ms,
        metrics.prefill_tokens_per_second,
        metrics.decode_tokens_per_second,
    ):
        assert value is not None
        assert value > 0


def test_an_empty_result_of_beams_has_no_first_token(model: DecoderModel) -> None:
    end = model.generate(PROMPT, temperature=0, max_new_tokens=1).token_ids
    done = model.generate(PROMPT, num_beams=2, length_penalty=-5, eos_token_id=tuple(end))
    assert (done.text, done.token_ids, done.finish_reason) == ("", [], "stop")
    assert (done.metrics.new_tokens, done.metrics.ttft_ms, done.metrics.tpot_ms) == (0, None, None)


def test_beams_end_where_the_context_ends(model: DecoderModel) -> None:
    ids = list(range(3, 103)) * 6
    done = model.generate(ids, num_beams=3, max_new_tokens=300, eos_token_id=())
    assert len(done.token_ids) == 41
    assert done.finish_reason == "length"


def test_constraints_reach_every_way_of_generating(model: DecoderModel) -> None:
    for options in ({"temperature": 0}, {"temperature": 1.0, "seed": 1}, {"num_beams": 3}):
        tokens = model.generate(PROMPT, max_new_tokens=30, no_repeat_ngram_size=1, eos_token_id=(), **options).token_ids
        assert len(set(tokens)) == 30
        forced = model.generate([5], max_new_tokens=4, forced_bos_token_id=9, forced_eos_token_id=11, **options)
        assert (forced.token_ids[0], forced.token_ids[-1], len(forced.token_ids)) == (9, 11, 4)


def test_what_a_prompt_holds_counts_as_its_source(model: DecoderModel) -> None:
    ids = model.generate([5, 6, 7], temperature=0, max_new_tokens=4, eos_token_id=()).token_ids
    prompt = [5, 6, 7, *ids, 5, 6, 7]
    assert model.generate(prompt, temperature=0, max_new_tokens=1, encoder_no_repeat_ngram_size=4).token_ids != ids[:1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_beams": 4}, r"num_beams 4 knows its text only at the end, so it cannot be streamed: use generate, or give num_beams 1"),
        ({"num_return_sequences": 2, "temperature": 1.0}, r"num_return_sequences 2 has several texts, so it cannot be streamed"),
        ({"forced_bos_token_id": 128}, r"forced_bos_token_id is 128, outside 0\.\.127"),
        ({"num_beams": 2, "temperature": 0.5}, r"drop temperature, or give num_beams 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_streamed_is_refused_at_once(model: DecoderModel, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        model.stream(PROMPT, **options)
