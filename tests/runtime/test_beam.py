"""Beam search on made-up logits: what it keeps, how it scores, and when it ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgelm import search
from edgelm.beam import BeamSearch, Hypothesis
from edgelm.constraints import Span, constraints
from edgelm.errors import GenerationError
from edgelm.generation_config import GenerationConfig
from edgelm.logits import Logits, log_sum_exp
from edgelm.sampling import processors
from tests.runtime.fake_decoder import FakeDecoder, NextLogits, random_logits

PROMPT = [1, 2]
END = 0


def settings(num_beams: int, **options: Any) -> GenerationConfig:
    return GenerationConfig(**{"temperature": 0, "num_beams": num_beams, "eos_token_id": (END,), **options})


def beams(
    following: NextLogits, vocab_size: int, config: GenerationConfig, prompt: Sequence[int] = PROMPT
) -> BeamSearch:
    span = Span(len(prompt), len(prompt) + config.max_new_tokens, prompt)
    changes = processors(config, vocab_size, constraints(config, span, vocab_size))
    return BeamSearch(config, prompt, span.room, changes)


def find(following: NextLogits, vocab_size: int, config: GenerationConfig) -> list[Hypothesis]:
    job = beams(following, vocab_size, config)
    for _ in search.run(FakeDecoder(following, vocab_size), [PROMPT], [[job]]):
        pass
    return job.found


def log_probabilities(logits: Logits) -> list[float]:
    return (logits.astype(np.float64) - log_sum_exp(logits)).tolist()


def every_sequence(
    following: NextLogits, vocab_size: int, length: int, penalty: float
) -> list[tuple[float, list[int]]]:
    """All there are, best first: those that end with END and those of the full length."""
    found: list[tuple[float, list[int]]] = []

    def extend(tokens: list[int], total: float) -> None:
        for token, value in enumerate(log_probabilities(following([*PROMPT, *tokens]))):
            if token == END or len(tokens) + 1 == length:
                score = (total + value) / (len(tokens) + 1) ** penalty
                found.append((score, tokens if token == END else [*tokens, token]))
            else:
                extend([*tokens, token], total + value)

    extend([], 0.0)
    return sorted(found, key=lambda one: -one[0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.7, 2.0])
def test_enough_beams_find_what_an_enumeration_finds(seed: int, penalty: float) -> None:
    following = random_logits(4, seed)
    expected = every_sequence(following, 4, length=4, penalty=penalty)
    config = settings(len(expected), max_new_tokens=4, length_penalty=penalty, early_stopping="never")
    found = find(following, 4, config)
    assert [one.tokens for one in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([one.score for one in found], [score for score, _ in expected], rtol=1e-5)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_every_result_has_the_score_of_its_tokens(num_beams: int, early_stopping: bool | str) -> None:
    following = random_logits(6, seed=num_beams)
    config = settings(num_beams, max_new_tokens=7, length_penalty=0.6, early_stopping=early_stopping)
    found = find(following, 6, config)
    assert len(found) == num_beams
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        tokens = [*one.tokens, END] if one.finish_reason == "stop" else one.tokens
        total = sum(log_probabilities(following([*PROMPT, *tokens[:i]]))[token] for i, token in enumerate(tokens))
        assert one.score == pytest.approx(total / len(tokens) ** 0.6, rel=1e-5)
        assert len(tokens) == 7 or one.finish_reason == "stop"


def tree(branches: dict[tuple[int, ...], dict[int, float]], vocab_size: int) -> NextLogits:
    """Probabilities after the new tokens so far; what is not stated is all but impossible."""

    def following(ids: Sequence[int]) -> Logits:
        stated = branches.get(tuple(ids[len(PROMPT) :]), {END: 1.0})
        return np.log([stated.get(token, 1e-9) for token in range(vocab_size)]).astype(np.float32)

    return following


# Greedily 3 comes first, but what follows it is uncertain.
GARDEN_PATH = tree(
    {(): {3: 0.6, 4: 0.4}, (3,): {1: 0.35, 2: 0.35, 4: 0.3}, (4,): {2: 0.9, 1: 0.1}},
    vocab_size=5,
)


def test_two_beams_find_the_better_sequence_that_greedy_misses() -> None:
    found = find(GARDEN_PATH, 5, settings(2, max_new_tokens=5, length_penalty=0.0))
    assert found[0].tokens == [4, 2]
    assert found[0].score == pytest.approx(math.log(0.36), rel=1e-4)
    assert found[0].finish_reason == "stop"


def test_the_length_that_divides_counts_the_end_token_and_not_the_prompt() -> None:
    found = find(GARDEN_PATH, 5, settings(2, max_new_tokens=5, length_penalty=1.0))
    assert found[0].score == pytest.approx(math.log(0.36) / 3, rel=1e-4)


# A short sequence ends at once; a longer one has the better mean and the worse sum.
SHORT_OR_LONG = tree({(): {END: 0.55, 1: 0.45}, (1,): {1: 1.0}, (1, 1): {1: 1.0}, (1, 1, 1): {END: 1.0}}, vocab_size=3)


@pytest.mark.parametrize(("penalty", "tokens"), [(0.0, []), (1.0, [1, 1, 1])])
def test_the_length_penalty_favours_long_sequences(penalty: float, tokens: list[int]) -> None:
    config = settings(2, max_new_tokens=6, length_penalty=penalty, early_stopping="never")
    assert find(SHORT_OR_LONG, 3, config)[0].tokens == tokens


def steps(config: GenerationConfig, following: NextLogits, vocab_size: int) -> int:
    job = beams(following, vocab_size, config)
    return sum(1 for _ in search.run(FakeDecoder(following, vocab_size), [PROMPT], [[job]]))


def less_and_less_sure(ids: Sequence[int]) -> Logits:
    """Ending and going on are equally good for two tokens; then the end is unlikely, and so is each way to go on."""
    sure = len(ids) - len(PROMPT) < 2
    return np.log([0.4, 0.42, 0.1, 0.08] if sure else [0.001, 0.333, 0.333, 0.333]).astype(np.float32)


@pytest.mark.parametrize(
    ("early_stopping", "penalty", "taken"),
    [
        (True, 1.0, 2),  # two are complete: log(0.4) = -0.92 and log(0.42 * 0.4) / 2 = -0.89
        (False, 1.0, 3),  # two tokens have -0.87, but three only (2 log(0.42) + log(0.333)) / 3 = -0.94
        ("never", 1.0, 26),  # (2 log(0.42) + 24 log(0.333)) / 30 = -0.94: no hope even at full length
        ("never", -1.0, 3),  # the shorter the better, so at the length now or never: 3 * -2.83 is below 2 * -1.78
    ],
)
def test_early_stopping_decides_how_long_is_searched(early_stopping: bool | str, penalty: float, taken: int) -> None:
    config = settings(2, max_new_tokens=30, length_penalty=penalty, early_stopping=early_stopping)
    assert steps(config, less_and_less_sure, 4) == taken


def test_an_end_that_is_not_among_the_best_does_not_count() -> None:
    # Third of two beams: it is not complete, though neither beam has so good a score in the end.
    branches = {(): {1: 0.4, 2: 0.35, END: 0.25}, (1,): {1: 0.6, 2: 0.4}, (2,): {1: 0.6, 2: 0.4}}
    found = find(tree(branches, vocab_size=3), 3, settings(2, max_new_tokens=2, length_penalty=0.0))
    assert [one.tokens for one in found] == [[1, 1], [2, 1]]


def test_several_end_tokens_leave_enough_to_go_on_with() -> None:
    following = tree({(): {0: 0.3, 1: 0.3, 2: 0.2, 3: 0.1, 4: 0.1}}, vocab_size=5)
    config = settings(2, max_new_tokens=3, eos_token_id=(0, 1, 2), early_stopping=True)
    job = beams(following, 5, config)
    assert job.accept(following(PROMPT)[None]) == search.Choice()  # two of the best two ended
    config = settings(4, max_new_tokens=3, eos_token_id=(0, 1, 2), early_stopping=True)
    job = beams(following, 5, config)
    assert job.accept(following(PROMPT)[None]).tokens == [3, 4]


def test_the_first_step_has_one_row_and_the_beams_grow_from_it() -> None:
    decoder = FakeDecoder(random_logits(9), 9)
    job = beams(decoder.following, 9, settings(4, max_new_tokens=5, eos_token_id=()))
    for _ in search.run(decoder, [PROMPT], [[job]]):
        pass
    assert decoder.fed == len(PROMPT)
    assert decoder.widths == [4] * 4


def test_a_forced_token_is_one_beam_until_there_are_more() -> None:
    decoder = FakeDecoder(random_logits(9), 9)
    job = beams(decoder.following, 9, settings(3, max_new_tokens=4, forced_bos_token_id=5, eos_token_id=()), prompt=[1])
    for _ in search.run(decoder, [[1]], [[job]]):
        pass
    assert decoder.widths == [1, 3, 3]
    assert {one.tokens[0] for one in job.found} == {5}


def test_a_survivor_keeps_its_row() -> None:
    job = beams(random_logits(9), 9, settings(4, max_new_tokens=20, eos_token_id=()))
    rng = np.random.default_rng(3)
    choice = job.accept(rng.normal(0, 2, (1, 9)).astype(np.float32))
    for _ in range(15):
        choice = job.accept(rng.normal(0, 2, (len(choice.tokens), 9)).astype(np.float32))
        for row, parent in enumerate(choice.parents):
            # A row changes hands only if its own sequence has no heir.
            assert parent == row or row not in choice.parents


def test_there_are_fewer_results_than_beams_where_no_more_exist() -> None:
    following = random_logits(4)
    found = find(following, 4, settings(5, max_new_tokens=2, suppress_tokens=(1, 2), eos_token_id=(END,)))
    assert sorted(tuple(one.tokens) for one in found) == sorted([(), (3,), (3, 3)])


def test_forbidding_everything_is_an_error() -> None:
    with pytest.raises(GenerationError, match=r"after 2 tokens the settings forbid every token; relax no_repeat_ngram"):
        find(random_logits(4), 4, settings(2, suppress_tokens=(0, 1, 2, 3)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_damaged_logits_are_an_error(bad: float) -> None:
    job = beams(random_logits(4), 4, settings(2))
    with pytest.raises(GenerationError, match=r"the logits after 2 tokens hold (nan|inf).*--precision fp32"):
        job.accept(np.array([[0, bad, 0, 0]], np.float32))


def test_logits_are_left_unchanged() -> None:
    logits = random_logits(9)(PROMPT)[None]
    logits.flags.writeable = False
    beams(random_logits(9), 9, settings(2, repetition_penalty=1.3, no_repeat_ngram_size=1)).accept(logits)


def test_renormalizing_counts_only_what_is_allowed() -> None:
    following = random_logits(5)
    config = settings(2, max_new_tokens=1, suppress_tokens=(1, 2), eos_token_id=())
    logits = following(PROMPT)
    allowed = logits[[0, 3, 4]].astype(np.float64)
    best = allowed.max() - np.log(np.exp(allowed).sum())
    assert find(following, 5, config.replace(renormalize_logits=True))[0].score == pytest.approx(best, rel=1e-5)
    assert find(following, 5, config)[0].score == pytest.approx(allowed.max() - log_sum_exp(logits), rel=1e-5)


def test_penalties_work_on_the_beams_own_ids() -> None:
    following = random_logits(6, seed=4)
    config = settings(3, max_new_tokens=6, repetition_penalty=1.5, no_repeat_ngram_size=2, eos_token_id=())
    for one in find(following, 6, config):
        ids, total = list(PROMPT), 0.0
        for token in one.tokens:
            values = log_probabilities(following(ids))
            total += values[token] * (1.5 if token in ids else 1.0)
            ids.append(token)
        assert one.score == pytest.approx(total / 6, rel=1e-5)
        pairs = list(itertools.pairwise(ids))
        assert len(set(pairs)) == len(pairs)
