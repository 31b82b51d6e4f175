"""Choosing a token: float32 logits [vocab] in, one id out. Which processors and filters run, in which order, and the draw."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from edgelm import filters, penalties
from edgelm.constraints import something_left
from edgelm.errors import GenerationError
from edgelm.filters import Candidates, places
from edgelm.generation_config import GenerationConfig
from edgelm.logits import Logits, Processor

# A factory, and the names of what it takes: fields of GenerationConfig, or `vocab_size` or `uniform`, a source of draws.
# It runs where the first field differs from its default; a field at its default costs nothing.
Stage: TypeAlias = tuple[Callable[..., Any], tuple[str, ...]]

# The order decides the meaning; it is the one of transformers' `_get_logits_processor`, and llama.cpp's for what only that has.
#
# First what changes which token is likeliest, and so applies to greedy decoding and to beams too. A bias is part of what the
# model says, so penalties scale it. Penalties that subtract follow the one that multiplies, which asks for a logit's sign.
PROCESSORS: tuple[Stage, ...] = (
    (penalties.logit_bias, ("logit_bias", "vocab_size")),
    (penalties.repetition_penalty, ("repetition_penalty", "penalty_window")),
    (penalties.frequency_penalty, ("frequency_penalty", "penalty_window")),
    (penalties.presence_penalty, ("presence_penalty", "penalty_window")),
    (penalties.dry, ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_window", "dry_sequence_breakers")),
)
# Then constraints.py, which forbids and forces: no penalty may undo that. Then the caller's own processors, which see all of it.
#
# Last what only narrows a draw. Temperature comes first, so that filters judge the distribution that is drawn from.
# top_n_sigma measures the spread of all tokens, so it comes before the filters that cut them down; the cheap and coarse top_k is
# next. xtc removes the likeliest, and must not make room for what the others would have removed. dynamic_temperature
# asks how sure the model is among what is left.
FILTERS: tuple[Stage, ...] = (
    (filters.temperature, ("temperature", "dynatemp_range")),
    (filters.top_n_sigma, ("top_n_sigma",)),
    (filters.top_k, ("top_k",)),
    (filters.top_p, ("top_p",)),
    (filters.min_p, ("min_p",)),
    (filters.typical_p, ("typical_p",)),
    (filters.epsilon_cutoff, ("epsilon_cutoff",)),
    (filters.eta_cutoff, ("eta_cutoff",)),
    (filters.xtc, ("xtc_probability", "xtc_threshold", "uniform")),
    (filters.dynamic_temperature, ("dynatemp_range", "temperature", "dynatemp_exponent")),
)

_BLOCK = 256

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(GenerationConfig)}


class Sampler:
    """Chooses the tokens of one generation; make a new one for each sequence.

    The i-th draw depends on the seed, the sequence's number and i alone (Philox, a counter-based generator), never on
    what shares a batch. What a filter draws comes from a stream of its own.
    """

    def __init__(
        self,
        config: GenerationConfig,
        vocab_size: int,
        constraints: Sequence[Processor] = (),
        number: int = 0,
        uniform: Callable[[], float] | None = None,
    ) -> None:
        """Makes the processors and filters.

        Args:
            config: the settings.
            vocab_size: how many logits there will be.
            constraints: what forbids and forces tokens in this sequence.
            number: tells sequences apart that are drawn for one prompt.
            uniform: gives the numbers from [0, 1) that decide the draws; None makes them from the seed.

        Raises:
            InvalidOption: an id that the vocabulary does not have.
        """
        self._greedy = config.temperature == 0
        changes = processors(config, vocab_size, constraints)
        self._processors = [*changes, something_left] if changes else []
        key = (secrets.randbits(64) if config.seed is None else config.seed) + (number << 64)
        self._uniform = uniform_stream(key, 0) if uniform is None else uniform
        self._seen: deque[float] = deque()  # numbers of draws to come
        self._filters = [] if self._greedy else _stages(FILTERS, config, {"uniform": uniform_stream(key, 1)})
        self._draw = Mirostat(config.mirostat_tau, config.mirostat_eta) if config.mirostat_tau else draw
        self._buffer = np.empty(vocab_size, np.float32)

    def __call__(self, ids: Sequence[int], logits: Logits) -> int:
        """Choose the next token.

        Args:
            ids: the sequence so far, prompt included.
            logits: float32 [vocab]; left unchanged.

        Raises:
            GenerationError: the logits hold NaN or infinity, or not one finite value; or the settings forbid them all.
        """
        best = int(logits.argmax())  # NaN counts as the highest, so one look finds it
        require_finite(logits[best], len(ids))
        if self._processors or self._filters:
            np.copyto(self._buffer, logits)
            logits = self._buffer
        for process in self._processors:
            logits = process(ids, logits)
        if self._greedy:
            return int(logits.argmax()) if self._processors else best
        left = Candidates(logits)
        for narrow in self._filters:
            left = narrow(left)
        return left.token(self._draw(left, self._seen.popleft() if self._seen else self._uniform()))

    def upcoming(self, place: int) -> float:
        """The number from [0, 1) that decides the draw after `place` others from now on."""
        while len(self._seen) <= place:
            self._seen.append(self._uniform())
        return self._seen[place]


class Mirostat:
    """Draws with a surprise that stays near `tau` bits (mirostat 2, arXiv 2007.14966, algorithm 2), as llama.cpp does.

    Tokens with a surprise above mu go, all but the likeliest. What is left sums to 1 again, one is drawn, and mu moves by `eta` times
    the difference of its surprise from `tau`. mu begins at 2 * tau.
    """

    def __init__(self, tau: float, eta: float) -> None:
        self._tau, self._eta = tau, eta
        self.mu = 2 * tau

    def __call__(self, left: Candidates, uniform: float) -> int:
        """The place of the drawn one, by a number from [0, 1)."""
        weights = left.weights
        at = places(weights >= min(left.total * 2.0**-self.mu, float(weights.max())))
        kept = left.keep(at)
        place = int(at[draw(kept, uniform)])
        self.mu -= self._eta * (math.log2(kept.total / float(weights[place])) - self._tau)
        return place


def processors(config: GenerationConfig, vocab_size: int, constraints: Sequence[Processor]) -> list[Processor]:
    """What changes the logits of one sequence before one is chosen: PROCESSORS, its constraints, and the caller's own.

    Raises:
        InvalidOption: an id that the vocabulary does not have.
    """
    known = _stages(PROCESSORS, config, {"vocab_size": vocab_size})
    own = [_checked(process, place) for place, process in enumerate(config.logits_processors)]
    return [*known, *constraints, *own]


def uniform_stream(key: int, stream: int) -> Callable[[], float]:
    """Numbers from [0, 1): the i-th depends on the key (128 bits), the stream and i alone."""
    bits = np.random.Philox(key=key, counter=stream << 128)
    # The upper 53 bits of 64 are all a float64 in [0, 1) can hold.
    return lambda: (int(bits.random_raw()) >> 11) * 2.0**-53


def require_finite(highest: float | np.float32, length: int) -> None:
    """Checks the highest logit after `length` tokens.

    Raises:
        GenerationError: it is NaN or infinite.
    """
    if not math.isfinite(highest):
        raise GenerationError(
            f"the logits after {length} tokens hold {highest}: the program overflowed or is damaged; "
            "export it again with --precision fp32 and compare"
        )


def draw(left: Candidates, uniform: float) -> int:
    """The place at which the cumulated probability first exceeds `uniform`, which lies in [0, 1)."""
    weights, begin, before, total = left.weights, 0, 0.0, 0.0
    if weights.size > _BLOCK:
        # A running sum of the whole vocabulary costs milliseconds: find the block first, then the place inside it.
        blocks = np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK)).cumsum(dtype=np.float64)
        total = float(blocks[-1])
        block = int(blocks.searchsorted(uniform * total, side="right"))
        begin, before = block * _BLOCK, float(blocks[block - 1]) if block else 0.0
    inside = weights[begin : begin + _BLOCK].cumsum(dtype=np.float64)
    target = uniform * (total or float(inside[-1])) - before
    # The two sums round differently, so the target may lie a hair past the end: the last token that can be drawn.
    return begin + int(inside.searchsorted(min(target, math.nextafter(float(inside[-1]), 0.0)), side="right"))


def _stages(stages: Sequence[Stage], config: GenerationConfig, extra: Mapping[str, Any]) -> list[Any]:
    values = {**vars(config), **extra}
    chosen = [(make, names) for make, names in stages if values[names[0]] != _DEFAULTS[names[0]]]
    return [make(*[values[name] for name in names]) for make, names in chosen]


def _checked(process: Processor, place: int) -> Processor:
    """The caller's own processor, whose result is looked at."""

    def checked(ids: Sequence[int], logits: Logits) -> Logits:
        size, made = logits.size, np.asarray(process(ids, logits))
        if made.dtype != np.float32 or made.shape != (size,):
            what = f"{made.dtype} {list(made.shape)}"
            raise GenerationError(f"logits_processors[{place}] returned {what}, but must return float32 [{size}]")
        return made

    return checked
