from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgelm.constraints import suppress_until
from edgelm.errors import GenerationError, InvalidOption
from edgelm.filters import Candidates
from edgelm.generation_config import GenerationConfig
from edgelm.logits import Logits
from edgelm.sampling import FILTERS, PROCESSORS, Mirostat, Sampler, uniform_stream
from edgelm.sampling import draw as draw_place

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
@pytest.mark.parametrize("size", [702, 1_000])
def test_a_draw_takes_the_token_whose_share_holds_the_random_number(uniform: float, token: int, size: int):
    logits = np.full(size, -200.0, np.float32)
    logits[[300, 700, 701]] = np.log([1, 2, 1])
    assert draw_place(Candidates(logits), uniform) == token
    few = Candidates(logits).keep(np.array([0, 300, 500, 700, 701]))
    assert few.token(draw_place(few, uniform)) == token


def test_the_largest_random_number_draws_a_possible_token():
    generator = np.random.default_rng(1)
    for size in (1, 5, 256, 257, 3_001):
        logits = generator.standard_normal(size).astype(np.float32)
        logits[1:][generator.random(size - 1) < 0.4] = NEG
        assert draw_place(Candidates(logits), 1 - 2.0**-53) == np.flatnonzero(logits > NEG)[-1]


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
    sampler: Any = Sampler(config, 5)
    assert sampler._processors == sampler._filters == []


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
    given = [name for _, names in (*PROCESSORS, *FILTERS) for name in names]
    assert set(given) - {"vocab_size", "uniform"} <= {field.name for field in dataclasses.fields(GenerationConfig)}
    switches = [names[0] for _, names in (*PROCESSORS, *FILTERS)]
    assert len(set(switches)) == len(switches)
    sampler: Any = Sampler(GenerationConfig(), 5)
    assert sampler._processors == sampler._filters == []


def test_every_filter_is_refused_with_beams_and_with_mirostat():
    for _, (name, *_rest) in FILTERS:
        for other in ({"num_beams": 2}, {"mirostat_tau": 3.0}):
            if name == "temperature" and "mirostat_tau" in other:
                continue
            with pytest.raises(InvalidOption, match=rf"{name} cannot be combined with {next(iter(other))}"):
                GenerationConfig().replace(**{name: 0.4 if name != "top_k" else 5}, **other)


def run(options: dict[str, Any], number: int = 0, others: int = 0) -> list[int]:
    """60 tokens after one another from logits that depend on the last id; `others` sample in between."""
    config = GenerationConfig(**{"seed": 5, **options})
    table = np.random.default_rng(2).normal(0, 2, (40, 40)).astype(np.float32)
    samplers = [Sampler(config, 40, (), number), *(Sampler(config.replace(seed=90 + i), 40) for i in range(others))]
    rows = [[1] for _ in samplers]
    for _ in range(60):
        for sampler, ids in zip(samplers, rows, strict=True):
            ids.append(sampler(ids, table[ids[-1]]))
    return rows[0][1:]


EVERYTHING: dict[str, Any] = {
    "logit_bias": {3: 1.0}, "repetition_penalty": 1.1, "presence_penalty": 0.3, "frequency_penalty": 0.1,
    "penalty_window": 20, "dry_multiplier": 0.8, "dry_sequence_breakers": (7,), "temperature": 1.3, "top_n_sigma": 2.5,
    "top_k": 30, "top_p": 0.97, "min_p": 0.01, "typical_p": 0.95, "epsilon_cutoff": 1e-3, "eta_cutoff": 2e-3,
    "xtc_probability": 0.5, "dynatemp_range": 0.5, "logits_processors": lambda ids, logits: logits,
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"xtc_probability": 0.5}, {"mirostat_tau": 3.0}, EVERYTHING])
def test_a_seed_draws_the_same_alone_and_beside_others(options: dict[str, Any]):
    alone = run(options)
    assert alone == run(options) == run(options, others=3)
    assert alone != run({**options, "seed": 6})
    assert alone != run(options, number=1)


def test_what_a_filter_draws_does_not_move_the_draw_of_tokens():
    # xtc never finds two tokens this likely, so it may draw as it likes.
    assert run({"xtc_probability": 0.5, "xtc_threshold": 0.5}) == run({})


def test_streams_of_one_key_differ_and_depend_on_nothing_else():
    first, second = uniform_stream(7, 0), uniform_stream(7, 1)
    numbers = [first() for _ in range(1_000)]
    assert numbers == [draw for uniform in [uniform_stream(7, 0)] for draw in [uniform() for _ in range(1_000)]]
    assert not set(numbers) & {second() for _ in range(1_000)}
    assert 0 <= min(numbers) < 0.01 < 0.99 < max(numbers) < 1


def test_xtc_removes_as_often_as_it_is_told():
    drawn = draw(GenerationConfig(seed=4, xtc_probability=0.3, xtc_threshold=0.25), FIVE, 6_000)
    # Without xtc 0.4 and 0.3 of 1; with it the likeliest of the two is gone, and the rest holds 0.6.
    expected = [0.7 * 0.4, *(0.7 * share + 0.3 * share / 0.6 for share in (0.05, 0.3, 0.05, 0.2))]
    assert chi_square(drawn, expected) < 33.4


def test_mirostat_lets_go_what_surprises_too_much_and_learns_from_what_was_drawn():
    # Surprises 1, 2, 3 and 3 bits.
    left = Candidates(np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32)))
    mirostat = Mirostat(1.25, 0.1)
    assert mirostat.mu == 2.5
    # 2.5 bits leave two: 2/3 and 1/3. The second is drawn: log2(3) = 1.585 bits.
    assert mirostat(left, 0.7) == 1
    assert mirostat.mu == pytest.approx(2.5 - 0.1 * (math.log2(3) - 1.25), abs=1e-6)
    mirostat.mu = 3.5
    assert mirostat(left, 0.99) == 3
    assert mirostat.mu == pytest.approx(3.5 - 0.1 * (3 - 1.25), abs=1e-6)
    mirostat.mu = 0.5
    assert mirostat(left, 0.99) == 0
    assert mirostat.mu == pytest.approx(0.5 + 0.1 * 1.25, abs=1e-6)


def test_mirostat_keeps_the_mean_surprise_near_its_target():
    logits = np.random.default_rng(3).normal(0, 2, 5_000).astype(np.float32)
    sampler: Any = Sampler(GenerationConfig(seed=1, mirostat_tau=4.0), 5_000)
    for _ in range(300):
        sampler([0], logits)
    levels: list[float] = []
    for _ in range(700):
        sampler([0], logits)
        levels.append(sampler._draw.mu)
    # What is left are about 2**4 tokens or more; were nothing removed, 10.3 bits would be the mean.
    assert 4.0 < sum(levels) / len(levels) < 8.0


def test_mirostat_replaces_the_filters_of_a_checkpoint():
    config = GenerationConfig(top_k=50, top_p=0.9, temperature=0.7).replace(mirostat_tau=5.0)
    assert (config.top_k, config.top_p, config.temperature) == (0, 1.0, 0.7)


def test_own_processors_run_after_all_others_and_before_temperature():
    seen: list[tuple[list[int], list[float]]] = []

    def own(ids: Sequence[int], logits: Logits) -> Logits:
        seen.append((list(ids), logits.tolist()))
        return np.where(logits > NEG, 1 / logits, logits).astype(np.float32)

    options: dict[str, Any] = {"logit_bias": {0: 2.0}, "logits_processors": own}
    config = GenerationConfig(temperature=0.5, top_k=1, **options)
    sampler = Sampler(config, 3, [suppress_until(9, [1])])
    assert sampler([2], np.array([1, 2, 4], np.float32)) == 0
    assert seen == [([2], [3.0, NEG, 4.0])]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.zeros(2, np.float32), r"logits_processors\[1\] returned float32 \[2\], but must return float32 \[3\]"),
        (np.zeros(3), r"logits_processors\[1\] returned float64 \[3\], but must return float32 \[3\]"),
        (None, r"logits_processors\[1\] returned object \[\], but must return float32 \[3\]"),
        (np.full(3, NEG, np.float32), r"forbid every token; relax .* or logits_processors"),
        (np.array([0, math.nan, 0], np.float32), r"after 1 tokens processors made logits that hold nan"),
        (np.array([0, math.inf, 0], np.float32), r"after 1 tokens processors made logits that hold inf"),
    ],
)
def test_what_own_processors_return_is_looked_at(made: Any, message: str):
    config = GenerationConfig(logits_processors=[lambda ids, logits: logits, lambda ids, logits: made])  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match=message):
        Sampler(config, 3)([0], np.zeros(3, np.float32))


def test_the_sampler_never_writes_to_the_given_logits():
    logits = FIVE.copy()
    logits.flags.writeable = False
    config = GenerationConfig(**{**EVERYTHING, "seed": 1, "logit_bias": {3: 1.0}, "top_k": 4})
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
