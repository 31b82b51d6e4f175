from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edgelm.constraints import suppress_until
from edgelm.errors import GenerationError
from edgelm.generation_config import GenerationConfig
from edgelm.logits import Logits
from edgelm.sampling import PIPELINE, Sampler

NEG = -math.inf
FIVE = np.log(np.array([0.4, 0.05, 0.3, 0.05, 0.2], np.float32))


def draw(config: GenerationConfig, logits: Logits, count: int) -> list[int]:
    sampler = Sampler(config, logits.size)
    return [sampler([0], logits) for _ in range(count)]


def chi_square(draws: list[int], probabilities: list[float]) -> float:
    seen = np.bincount(draws, minlength=len(probabilities))
    expected = np.array(probabilities) * len(draws)
    assert not seen[expected == 0].any(), "a token without probability was drawn"
    possible = expected > 0
    return float(((seen[possible] - expected[possible]) ** 2 / expected[possible]).sum())


# chi-square limits for one in a million by chance: 4, 2 and 1 degrees of freedom
@pytest.mark.parametrize(
    ("options", "probabilities", "limit"),
    [
        ({}, [0.4, 0.05, 0.3, 0.05, 0.2], 33.4),
        ({"temperature": 0.5}, [0.16 / 0.295, 0.0025 / 0.295, 0.09 / 0.295, 0.0025 / 0.295, 0.04 / 0.295], 33.4),
        ({"top_k": 3}, [4 / 9, 0, 3 / 9, 0, 2 / 9], 27.7),
        ({"top_p": 0.6}, [4 / 7, 0, 3 / 7, 0, 0], 24.0),
        ({"min_p": 0.4}, [4 / 9, 0, 3 / 9, 0, 2 / 9], 27.7),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 0, 3 / 7, 0, 0], 24.0),
    ],
)
def test_draws_follow_the_distribution(options: dict[str, float], probabilities: list[float], limit: float):
    assert chi_square(draw(GenerationConfig(seed=11, **options), FIVE, 6_000), probabilities) < limit  # type: ignore[arg-type]


def test_draws_from_a_large_vocabulary_follow_the_distribution():
    logits = np.full(1_500, -1.0, np.float32)
    logits[::3] = NEG
    logits[1::3] = 0.0
    share = 1 / (1 + math.exp(-1))
    draws = np.array(draw(GenerationConfig(seed=3), logits, 8_000))
    assert chi_square((draws % 3).tolist(), [0, share, 1 - share]) < 24.0
    assert chi_square((draws // 300).tolist(), [0.2] * 5) < 33.4


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 300), (0.2499, 300), (0.2501, 700), (0.7499, 700), (0.7501, 701)])
def test_a_draw_takes_the_token_whose_share_holds_the_random_number(
    uniform: float, token: int, monkeypatch: pytest.MonkeyPatch
):
    logits = np.full(1_000, -200.0, np.float32)
    logits[[300, 700, 701]] = np.log([1, 2, 1])
    sampler = Sampler(GenerationConfig(seed=0), 1_000)
    monkeypatch.setattr(sampler, "_uniform", lambda: uniform)
    assert sampler([], logits) == token


def test_the_largest_random_number_draws_a_possible_token(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(1)
    for size in (1, 5, 256, 257, 3_001):
        logits = generator.standard_normal(size).astype(np.float32)
        logits[1:][generator.random(size - 1) < 0.4] = NEG
        sampler = Sampler(GenerationConfig(seed=0), size)
        monkeypatch.setattr(sampler, "_uniform", lambda: 1 - 2.0**-53)
        assert sampler([], logits) == np.flatnonzero(logits > NEG)[-1]


def test_a_seed_gives_the_same_tokens_again_and_another_seed_others():
    first = draw(GenerationConfig(seed=1), FIVE, 50)
    assert first == draw(GenerationConfig(seed=1), FIVE, 50)
    assert first != draw(GenerationConfig(seed=2), FIVE, 50)


def test_the_tokens_of_a_seed_are_fixed_across_releases():
    assert draw(GenerationConfig(seed=1234), FIVE, 12) == [0, 2, 2, 0, 2, 4, 4, 0, 0, 0, 3, 0]


def test_a_draw_does_not_depend_on_what_else_is_sampled():
    alone = draw(GenerationConfig(seed=1), FIVE, 20)
    ours, other = Sampler(GenerationConfig(seed=1), 5), Sampler(GenerationConfig(seed=9), 5)
    together = [(ours([0], FIVE), other([0], FIVE))[0] for _ in range(20)]
    assert together == alone


def test_sequences_of_one_prompt_draw_by_their_number_and_the_first_as_if_alone():
    streams = [Sampler(GenerationConfig(seed=1), 5, (), number) for number in range(3)]
    drawn = [[stream([0], FIVE) for _ in range(50)] for stream in streams]
    assert drawn[0] == draw(GenerationConfig(seed=1), FIVE, 50)
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_constraints_run_before_the_draw_and_the_greedy_choice():
    for changes in ({"temperature": 0.0}, {"top_k": 1, "seed": 0}):
        sampler = Sampler(GenerationConfig(**changes), 5, [suppress_until(9, [0, 2])])  # type: ignore[arg-type]
        assert sampler([0], FIVE) == 4


@pytest.mark.parametrize("temperature_value", [0.0, 1.0])
def test_constraints_that_leave_nothing_are_an_error_and_not_a_token(temperature_value: float):
    sampler = Sampler(GenerationConfig(temperature=temperature_value), 5, [suppress_until(9, range(5))])
    with pytest.raises(GenerationError, match=r"after 3 tokens the settings forbid every token; relax no_repeat_ngram"):
        sampler([0, 1, 2], FIVE)


def test_without_a_seed_every_sampler_draws_afresh():
    assert draw(GenerationConfig(), FIVE, 60) != draw(GenerationConfig(), FIVE, 60)


def test_greedy_takes_the_best_and_of_equals_the_first():
    assert draw(GenerationConfig(temperature=0), np.array([1, 3, 2, 3], np.float32), 2) == [1, 1]


def test_greedy_applies_the_repetition_penalty():
    sampler = Sampler(GenerationConfig(temperature=0, repetition_penalty=2.0), 3)
    assert sampler([1], np.array([2, 3, 1], np.float32)) == 0


def test_greedy_needs_none_of_the_filters():
    config = GenerationConfig(temperature=0, top_k=1, top_p=0.1, min_p=0.5)
    assert Sampler(config, 5)._processors == []  # pyright: ignore[reportPrivateUsage]


def test_filters_judge_the_distribution_after_temperature():
    # At temperature 1 the best holds 0.4 and is a nucleus of 0.35 alone; at 10 all are nearly equal.
    assert set(draw(GenerationConfig(seed=1, top_p=0.35), FIVE, 300)) == {0}
    assert set(draw(GenerationConfig(seed=1, top_p=0.35, temperature=10), FIVE, 300)) == {0, 2}


def test_top_p_measures_mass_among_the_top_k():
    # 0.4 of 0.4 + 0.3 is 0.57: enough for 0.5, which it would not be of the whole.
    assert set(draw(GenerationConfig(seed=1, top_k=2, top_p=0.5), FIVE, 300)) == {0}


def test_min_p_does_not_lower_the_mass_top_p_measures():
    # Of all five the best two hold 0.7 < 0.75; of the three that min_p leaves they would hold 0.78.
    assert set(draw(GenerationConfig(seed=1, top_p=0.75, min_p=0.4), FIVE, 300)) == {0, 2, 4}


def test_every_stage_is_a_field_and_off_by_default():
    names = [name for name, _ in PIPELINE]
    assert len(set(names)) == len(names)
    assert set(names) <= {field.name for field in dataclasses.fields(GenerationConfig)}
    assert Sampler(GenerationConfig(), 5)._processors == []  # pyright: ignore[reportPrivateUsage]


def test_the_sampler_never_writes_to_the_given_logits():
    logits = FIVE.copy()
    logits.flags.writeable = False
    config = GenerationConfig(seed=1, repetition_penalty=1.5, temperature=0.7, top_k=4, top_p=0.9, min_p=0.01)
    for changes in ({}, {"temperature": 0.0}):
        sampler = Sampler(config.replace(**changes), 5)
        for ids in ([0], [0, 1], [0, 1, 2]):
            sampler(ids, logits)
    assert np.array_equal(logits, FIVE)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature_value", [0.0, 1.0])
def test_damaged_logits_are_an_error_and_not_a_token(bad: float, temperature_value: float):
    sampler = Sampler(GenerationConfig(temperature=temperature_value, top_k=2), 3)
    with pytest.raises(GenerationError, match=r"logits after 2 tokens hold (nan|inf).*--precision fp32"):
        sampler([1, 2], np.array([1, bad, 2], np.float32))


def test_logits_without_a_possible_token_are_an_error():
    with pytest.raises(GenerationError, match=r"hold -inf"):
        Sampler(GenerationConfig(), 3)([], np.full(3, NEG, np.float32))
