"""Beam search for one prompt: logits of its beams in, the rows and tokens to go on with out, and at the end the best sequences.

What is kept, what ends and how it is scored follow transformers 5 (`_beam_search`), so the scores are its `sequences_scores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelm.constraints import nothing_left
from edgelm.errors import GenerationError
from edgelm.generation_config import GenerationConfig
from edgelm.logits import Logits, Processor, highest, log_softmax, log_sum_exp
from edgelm.sampling import require_finite
from edgelm.search import Choice


@dataclass(frozen=True)
class Hypothesis:
    """A complete sequence: its new tokens without the end token, and its score.

    The score is the sum of the tokens' log probabilities, end token included, over their number to the power of
    length_penalty.
    """

    tokens: list[int]
    score: float
    finish_reason: str


@dataclass(frozen=True)
class _Beam:
    """A sequence under way: all its ids, and the sum of the new ones' log probabilities."""

    ids: list[int]
    total: float


class _Candidate(NamedTuple):
    total: float
    row: int
    token: int


class BeamSearch:
    """The beams of one prompt. `found` holds complete sequences, best first, at most num_beams of them."""

    def __init__(
        self, config: GenerationConfig, prompt: Sequence[int], room: int, processors: Sequence[Processor]
    ) -> None:
        """Begins with one beam.

        Args:
            config: the settings; what rules a draw is not used.
            prompt: the ids that the decoder has been fed.
            room: most tokens to generate.
            processors: what changes the log probabilities of each beam, for this prompt.
        """
        self._config = config
        self._start, self._room, self._length = len(prompt), room, 0
        self._processors = processors
        self._ends = frozenset(config.end_token_ids)
        # Enough for num_beams that go on, even if all others end.
        self._wanted = max(2, 1 + len(self._ends)) * config.num_beams
        self._beams = [_Beam(list(prompt), 0.0)]
        self.found: list[Hypothesis] = []

    def accept(self, logits: Logits, log_probabilities: Logits | None = None) -> Choice:
        """Takes the logits [beams, vocab_size] after the beams' last tokens; no rows in the answer: the search is over.

        Their log probabilities are computed here if they are not given, otherwise overwritten.

        Raises:
            GenerationError: the logits hold NaN or infinity, or no sequence is possible.
        """
        self._length += 1
        going_on: list[_Candidate] = []
        for rank, candidate in enumerate(self._candidates(logits, log_probabilities)):
            if candidate.token in self._ends or self._length == self._room:
                # What is not among the best is only there to go on.
                if rank < self._config.num_beams:
                    self._complete(candidate)
            elif len(going_on) < self._config.num_beams:
                going_on.append(candidate)
        self.found.sort(key=lambda hypothesis: -hypothesis.score)
        del self.found[self._config.num_beams :]
        if not going_on and not self.found:
            raise GenerationError(nothing_left(self._start + self._length - 1))
        return Choice() if self._is_over(going_on) else self._go_on(going_on)

    def cancel(self) -> None:
        """Ends the search as it stands: beams under way count as sequences, behind those that are complete."""
        length = max(1, self._length)
        best = sorted(self._beams, key=lambda beam: -beam.total)
        for beam in best[: self._config.num_beams - len(self.found)]:
            score = beam.total / length**self._config.length_penalty
            self.found.append(Hypothesis(beam.ids[self._start :], score, "cancelled"))

    def _candidates(self, logits: Logits, log_probabilities: Logits | None) -> list[_Candidate]:
        """The best continuations of all beams together, best first."""
        found: list[tuple[float, int, int]] = []
        for row, beam in enumerate(self._beams):
            known = log_softmax(logits[row]) if log_probabilities is None else log_probabilities[row]
            tokens, values = self._best(beam, known)
            found += [
                (-total, row, token)
                for token, total in zip(tokens.tolist(), (beam.total + values).tolist(), strict=True)
            ]
        return [_Candidate(-total, row, token) for total, row, token in sorted(found)[: self._wanted]]

    def _best(self, beam: _Beam, values: Logits) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The likeliest tokens after one beam, and their log probabilities; those that are forbidden are not among them."""
        # One logit that is NaN or infinite turns all log probabilities into NaN. Alone, -inf is the probability 0.
        require_finite(np.exp(values[0]), len(beam.ids))
        for process in self._processors:
            values = process(beam.ids, values)
        total = log_sum_exp(values) if self._config.renormalize_logits and self._processors else 0.0
        index = highest(values, self._wanted)
        return index, values[index].astype(np.float64) - total

    def _complete(self, candidate: _Candidate) -> None:
        ids = self._beams[candidate.row].ids[self._start :]
        ended = candidate.token in self._ends
        score = candidate.total / self._length**self._config.length_penalty
        tokens = ids if ended else [*ids, candidate.token]
        self.found.append(Hypothesis(tokens, score, "stop" if ended else "length"))

    def _is_over(self, going_on: Sequence[_Candidate]) -> bool:
        if not going_on:
            return True
        if len(self.found) < self._config.num_beams:
            return False
        early, penalty = self._config.early_stopping, self._config.length_penalty
        if early is True:
            return True
        # The best that the best beam can still become: at its length now, or at the length that flatters it most.
        length = self._room if early == "never" and penalty > 0 else self._length
        return going_on[0].total / length**penalty <= self.found[-1].score

    def _go_on(self, going_on: Sequence[_Candidate]) -> Choice:
        """Beams stay in their parent's row if they can, so that only a beam beside its parent's first heir is copied."""
        placed: dict[int, _Candidate] = {}
        others: list[_Candidate] = []
        for candidate in going_on:
            if candidate.row < len(going_on) and candidate.row not in placed:
                placed[candidate.row] = candidate
            else:
                others.append(candidate)
        rows = [placed[row] if row in placed else others.pop(0) for row in range(len(going_on))]
        self._beams = [_Beam([*self._beams[one.row].ids, one.token], one.total) for one in rows]
        return Choice([one.row for one in rows], [one.token for one in rows])
