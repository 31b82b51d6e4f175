"""The loop on ids: every search gets the logits of its own rows, whatever shares the batch, and leaves when it is over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgelm import search
from edgelm.beam import BeamSearch, Hypothesis
from edgelm.errors import GenerationError
from edgelm.generation_config import GenerationConfig
from edgelm.search import Choice
from tests.runtime.fake_decoder import FakeDecoder, Logits, random_logits

VOCAB = 11


class Greedy:
    """Takes the best token until there are `length`."""

    def __init__(self, length: int) -> None:
        self.tokens: list[int] = []
        self._length = length

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        assert len(logits) == 1
        self.tokens.append(int(logits[0].argmax()))
        return Choice((0,), self.tokens[-1:]) if len(self.tokens) < self._length else Choice()


def greedy_tokens(prompt: Sequence[int], length: int) -> list[int]:
    ids = list(prompt)
    for _ in range(length):
        ids.append(int(random_logits(VOCAB)(ids).argmax()))
    return ids[len(prompt) :]


def beam_search(prompt: Sequence[int], num_beams: int, length: int) -> BeamSearch:
    config = GenerationConfig(temperature=0, num_beams=num_beams, eos_token_id=(0, 7), early_stopping=True)
    return BeamSearch(config, prompt, length, [])


def test_a_prompt_is_fed_once_however_many_searches_start_there() -> None:
    decoder = FakeDecoder(random_logits(VOCAB), VOCAB)
    searches = [Greedy(1), Greedy(4), Greedy(2)]
    order = list(search.run(decoder, [[3, 4, 5]], [searches]))
    assert order[:3] == searches
    assert len(order) == 7
    assert [one.tokens for one in searches] == [greedy_tokens([3, 4, 5], length) for length in (1, 4, 2)]
    assert decoder.fed == 3
    assert decoder.widths == [2, 1, 1]


@pytest.mark.parametrize("seed", range(8))
def test_a_batch_equals_each_search_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(1, VOCAB, rng.integers(1, 6)).tolist() for _ in range(5)]
    widths, lengths = rng.integers(2, 5, 5).tolist(), rng.integers(1, 9, 5).tolist()
    alone = [beam_search(*one) for one in zip(prompts, widths, lengths, strict=True)]
    for prompt, one in zip(prompts, alone, strict=True):
        list(search.run(FakeDecoder(random_logits(VOCAB), VOCAB), [prompt], [[one]]))
    decoder = FakeDecoder(random_logits(VOCAB), VOCAB)
    together = [beam_search(*one) for one in zip(prompts, widths, lengths, strict=True)]
    list(search.run(decoder, prompts, [[one] for one in together]))
    assert [one.found for one in together] == [one.found for one in alone]
    assert decoder.widths == sorted(decoder.widths, reverse=True)


def test_log_probabilities_that_a_decoder_tells_change_nothing() -> None:
    found: list[list[Hypothesis]] = []
    for tells in (False, True):
        searches = [beam_search([i, 3], i, 8) for i in (2, 3, 4)]
        decoder = FakeDecoder(random_logits(VOCAB), VOCAB, tells=tells)
        list(search.run(decoder, [[i, 3] for i in (2, 3, 4)], [[one] for one in searches]))
        found.append([hypothesis for one in searches for hypothesis in one.found])
    assert [one.tokens for one in found[0]] == [one.tokens for one in found[1]]
    assert [one.score for one in found[1]] == pytest.approx([one.score for one in found[0]], abs=1e-5)


def test_log_probabilities_that_a_decoder_tells_are_believed() -> None:
    class Wrong(FakeDecoder):
        def step(self, ids: Sequence[int]) -> Logits:
            logits = super().step(ids)
            self.log_probabilities = np.full_like(logits, np.nan)
            return logits

    with pytest.raises(GenerationError, match="the logits after 2 tokens hold nan"):
        list(search.run(Wrong(random_logits(VOCAB), VOCAB), [[1]], [[beam_search([1], 2, 5)]]))


def test_what_is_over_leaves_and_the_last_takes_its_rows() -> None:
    asked: list[list[int]] = []

    class Watched(FakeDecoder):
        def reorder(self, parents: Sequence[int]) -> None:
            asked.append(list(parents))
            super().reorder(parents)

    lengths = [2, 4, 3, 5]
    searches = [Greedy(length) for length in lengths]
    list(search.run(Watched(random_logits(VOCAB), VOCAB), [[i] for i in range(4)], [[one] for one in searches]))
    assert asked == [[0, 1, 2, 3], [3, 1, 2], [0, 1], [0]]
    assert [len(one.tokens) for one in searches] == lengths


def test_nothing_is_fed_when_all_end_with_their_first_token() -> None:
    decoder = FakeDecoder(random_logits(VOCAB), VOCAB)
    list(search.run(decoder, [[1], [2]], [[Greedy(1)], [Greedy(1)]]))
    assert decoder.widths == []


def test_searches_leave_and_come_while_others_go_on() -> None:
    decoder = FakeDecoder(random_logits(VOCAB), VOCAB)
    batch: search.Batch[Greedy] = search.Batch(decoder)
    first, gone, late = Greedy(9), Greedy(9), Greedy(3)
    for (row, logits), one in zip(decoder.start([[1], [2]]), (first, gone), strict=True):
        batch.begin(one, row, logits)
    assert list(batch.step()) == [first, gone]
    assert batch.leave([gone]) == [(gone, 1)]
    decoder.ids.append([3, 4])
    batch.begin(late, 2, random_logits(VOCAB)([3, 4]))
    left = []
    while batch:
        for _ in batch.step():
            pass
        left += batch.leave()
    assert [one for one, _ in left] == [late, first]
    assert first.tokens == greedy_tokens([1], 9)
    assert late.tokens == greedy_tokens([3, 4], 3)
    assert gone.tokens == greedy_tokens([2], 2)
