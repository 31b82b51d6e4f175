"""Choosing a token: float32 logits [vocab] in, one id out. Which processors run, in which order, and the draw."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgelm.constraints import something_left
from edgelm.errors import GenerationError
from edgelm.generation_config import GenerationConfig
from edgelm.logits import (
    Logits,
    Processor,
    min_p,
    repetition_penalty,
    softmax_weights,
    temperature,
    top_k,
    top_p,
)

# (field of GenerationConfig, factory of its processor). The order decides the meaning; it is the one of transformers'
# `_get_logits_processor`: what stands before temperature changes which token is likeliest and so applies to greedy
# decoding too; what stands after it only narrows a draw. The filters follow temperature, so that top_p and min_p judge
# the distribution that is drawn from. A field at its default is switched off and costs nothing. What forbids and forces
# tokens runs before all of these: constraints.py.
PIPELINE: tuple[tuple[str, Callable[[Any], Processor]], ...] = (
    ("repetition_penalty", repetition_penalty),
    ("temperature", temperature),
    ("top_k", top_k),
    ("top_p", top_p),
    ("min_p", min_p),
)

_BLOCK = 256


class Sampler:
    """Chooses the tokens of one generation; make a new one for each sequence.

    The i-th draw depends on the seed, the sequence's number and i alone (Philox, a counter-based generator), never on
    what shares a batch.
    """

    def __init__(
        self, config: GenerationConfig, vocab_size: int, constraints: Sequence[Processor] = (), number: int = 0
    ) -> None:
        """Makes the processors.

        Args:
            config: the settings.
            vocab_size: how many logits there will be.
            constraints: what forbids and forces tokens in this sequence.
            number: tells sequences apart that are drawn for one prompt.
        """
        self._greedy = config.temperature == 0
        checked = [*constraints, something_left] if constraints else []
        self._processors = checked + processors(config, drawing=not self._greedy)
        self._buffer = np.empty(vocab_size, np.float32)
        seed = secrets.randbits(64) if config.seed is None else config.seed
        self._bits = np.random.Philox(key=seed + (number << 64))

    def __call__(self, ids: Sequence[int], logits: Logits) -> int:
        """Choose the next token.

        Args:
            ids: the sequence so far, prompt included.
            logits: float32 [vocab]; left unchanged.

        Raises:
            GenerationError: the logits hold NaN or infinity, or not one finite value; or the constraints forbid them all.
        """
        best = int(logits.argmax())  # NaN counts as the highest, so one look finds it
        require_finite(logits[best], len(ids))
        if self._processors:
            np.copyto(self._buffer, logits)
            logits = self._buffer
            for process in self._processors:
                logits = process(ids, logits)
        elif self._greedy:
            return best
        return int(logits.argmax()) if self._greedy else _draw(logits, self._uniform())

    def _uniform(self) -> float:
        # The upper 53 bits of 64 are all a float64 in [0, 1) can hold.
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53


def processors(config: GenerationConfig, *, drawing: bool) -> list[Processor]:
    """The stages of PIPELINE that are switched on; without a draw, only those that change which token is likeliest."""
    stages = PIPELINE
    if not drawing:
        stages = stages[: [name for name, _ in stages].index("temperature")]
    default = {f.name: f.default for f in dataclasses.fields(config)}
    chosen = [(factory, getattr(config, name)) for name, factory in stages if getattr(config, name) != default[name]]
    return [factory(value) for factory, value in chosen]


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


def _draw(logits: Logits, uniform: float) -> int:
    """The id at which the cumulated probability first exceeds `uniform`, which lies in [0, 1)."""
    weights, index = softmax_weights(logits)
    # A running sum of the whole vocabulary costs milliseconds: find the block first, then the place inside it.
    blocks = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK)), dtype=np.float64)
    target = uniform * float(blocks[-1])
    block = int(np.searchsorted(blocks, target, side="right"))
    before = float(blocks[block - 1]) if block else 0.0
    inside = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    # The two sums round differently, so the target may lie a hair past the end: the last token that can be drawn.
    place = int(np.searchsorted(inside, min(target - before, np.nextafter(inside[-1], 0.0)), side="right"))
    place += block * _BLOCK
    return place if index is None else int(index[place])
