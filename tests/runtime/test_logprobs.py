"""Log probabilities: of chosen tokens, of the likeliest beside them, of prompts and of whole texts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgelm.errors import ContextOverflow, InvalidOption
from edgelm.logprobs import TokenLogprob, log_probabilities, token_logprob, token_logprobs
from edgelm.text_generation import DecoderModel

PROMPT = "the rain in Spain"
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 10}
FOUR = np.log(np.array([0.1, 0.4, 0.1, 0.4], np.float32)) + np.float32(7)


def test_a_token_is_told_with_the_likeliest_best_first_and_of_equals_the_lower_id():
    told = token_logprob(FOUR, 0, 3)
    assert (told.token_id, told.logprob) == (0, pytest.approx(math.log(0.1), abs=1e-5))
    assert [token for token, _ in told.top] == [1, 3, 0]
    assert [value for _, value in told.top] == pytest.approx([math.log(0.4), math.log(0.4), math.log(0.1)], abs=1e-5)
    assert token_logprob(FOUR, 3, 0).top == []
    assert len(token_logprob(FOUR, 3, 9).top) == 4


def test_the_first_token_of_a_sequence_has_nothing_before_it():
    found = token_logprobs([3, 0, 1], [np.stack([FOUR, FOUR]), FOUR[None]], 0)
    assert found[0] == TokenLogprob(3, None)
    assert [one.logprob for one in found[1:]] == pytest.approx([math.log(0.1), math.log(0.4)], abs=1e-5)


def test_log_probabilities_are_as_many_as_tokens_or_logits():
    rows = np.stack([FOUR, FOUR, FOUR])
    found = np.concatenate(list(log_probabilities([0, 1, 0, 1], [rows, rows[:1]])))
    assert found == pytest.approx([math.log(p) for p in (0.1, 0.4, 0.1, 0.4)], abs=1e-6)
    assert [part.size for part in log_probabilities([1], [rows])] == [1]


def reference(model: DecoderModel, ids: list[int]) -> np.ndarray[Any, Any]:
    """Log probabilities [tokens, vocabulary] after each token."""
    logits = model.logits(ids).astype(np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


@pytest.mark.parametrize("options", [GREEDY, {"temperature": 1.5, "top_k": 5, "seed": 3, "max_new_tokens": 10}])
def test_a_generation_tells_what_the_model_gave_each_token_before_any_processor(
    model: DecoderModel, options: dict[str, Any]
):
    options = {**options, "repetition_penalty": 1.3}
    done = model.generate(PROMPT, **options, logprobs=3)
    assert done.token_ids == model.generate(PROMPT, **options).token_ids
    assert done.logprobs is not None
    prompt = model.tokenizer.encode(PROMPT)
    expected = reference(model, [*prompt, *done.token_ids])[len(prompt) - 1 :]
    for one, token, row in zip(done.logprobs, done.token_ids, expected, strict=False):
        assert one.token_id == token
        assert one.logprob == pytest.approx(row[token], abs=1e-4)
        assert [value for _, value in one.top] == pytest.approx(sorted(row)[:-4:-1], abs=1e-4)
    assert len(done.logprobs) == len(done.token_ids)
    streamed = [one for chunk in model.stream(PROMPT, **options, logprobs=3) for one in chunk.logprobs or ()]
    assert streamed == done.logprobs


def test_without_the_option_none_are_told(model: DecoderModel):
    assert model.generate(PROMPT, **GREEDY).logprobs is None
    assert {chunk.logprobs is None for chunk in model.stream(PROMPT, **GREEDY)} == {True}
    done = model.generate(PROMPT, **GREEDY, logprobs=0)
    assert done.logprobs is not None
    assert {len(one.top) for one in done.logprobs} == {0}


def test_an_end_token_is_not_among_them(model: DecoderModel):
    end = model.generate(PROMPT, **GREEDY).token_ids[3]
    done = model.generate(PROMPT, **GREEDY, logprobs=1, stop_token_ids=end)
    assert done.logprobs is not None
    assert (done.finish_reason, len(done.logprobs), len(done.token_ids)) == ("stop", 3, 3)


def test_echo_puts_the_prompt_before_the_text_the_ids_and_the_log_probabilities(model: DecoderModel):
    ids = model.tokenizer.encode(PROMPT)
    plain, done = (model.generate(PROMPT, **GREEDY, logprobs=2, echo=echo) for echo in (False, True))
    assert done.token_ids == [*ids, *plain.token_ids]
    assert done.text == model.tokenizer.decode(done.token_ids)
    assert done.logprobs is not None
    assert plain.logprobs is not None
    assert done.logprobs == [*model.logprobs(PROMPT, 2), *plain.logprobs]
    assert done.metrics.new_tokens == plain.metrics.new_tokens == 10
    chunks = list(model.stream(PROMPT, **GREEDY, echo=True))
    assert "".join(chunk.text for chunk in chunks) == done.text
    assert chunks[-1].logprobs is None


def test_no_stop_string_begins_in_an_echoed_prompt(model: DecoderModel):
    done = model.generate(PROMPT, **GREEDY, echo=True, stop=PROMPT[3:])
    assert done.finish_reason == "length"


def test_the_score_of_a_text_is_the_sum_of_its_log_probabilities(model: DecoderModel):
    ids = model.tokenizer.encode(PROMPT)
    told = model.logprobs(PROMPT)
    values = reference(model, ids)[np.arange(len(ids) - 1), ids[1:]]
    assert [one.logprob for one in told[1:]] == pytest.approx(values, abs=1e-4)
    assert model.score(PROMPT) == model.score(ids) == pytest.approx(values.sum(), abs=1e-4)
    assert model.perplexity(PROMPT) == pytest.approx(math.exp(-values.mean()), rel=1e-4)


def test_a_long_text_is_scored_in_chunks(model: DecoderModel, monkeypatch: pytest.MonkeyPatch):
    whole = model.score(PROMPT)
    monkeypatch.setattr("edgelm.text_generation._CHUNK_LOGITS", 3 * model.package.manifest.vocab_size)
    assert model.score(PROMPT) == pytest.approx(whole, abs=1e-4)
    assert len(model.logprobs(PROMPT)) == len(model.tokenizer.encode(PROMPT))


def test_what_cannot_be_scored_is_refused(model: DecoderModel):
    for call in (model.score, model.perplexity):
        with pytest.raises(
            InvalidOption, match=r"the text is one token, which nothing comes before; give a longer one"
        ):
            call([5])
        with pytest.raises(InvalidOption, match=r"the prompt is empty"):
            call("")
        with pytest.raises(ContextOverflow, match=r"shorten it"):
            call([5] * (model.max_length + 1))
