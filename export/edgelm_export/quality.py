"""How far a package is from the float graph of the same checkpoint: both run one text, through prefill and decode steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import VerificationError
from edgelm.protocols import DecoderRows

Logits = NDArray[np.float32]

TEXT_TOKENS = 1024
STEP_TOKENS = 64

# Positions run at a time: their logits over a vocabulary of 150k take 80 MB a model.
_CHUNK = 128

# Rows of logits in float64 at a time, which bounds the comparison's memory.
_ROWS = 16

# Shares of the positions, from none to all, at which the card keeps the divergence: what its plot is drawn from.
_QUANTILES = np.linspace(0, 1, 21)

# A float graph must agree with itself: decode steps against prefill, relative to the largest logit.
_STEP_TOLERANCE = 1e-3


@dataclass
class Divergence:
    """Running comparison of two models' next-token distributions, position by position."""

    _kld: list[NDArray[np.float64]] = field(default_factory=list[NDArray[np.float64]])
    _first: int = 0  # positions where both name the same token first
    _among_five: int = 0
    # Negative log-likelihood of the tokens that followed, in nats.
    _reference_nll: list[NDArray[np.float64]] = field(default_factory=list[NDArray[np.float64]])
    _nll: list[NDArray[np.float64]] = field(default_factory=list[NDArray[np.float64]])

    def add(self, reference: Logits, logits: Logits, targets: Sequence[int]) -> None:
        """Compares logits [n, vocab_size] at n positions; `targets` are the tokens that followed, as far as there are any."""
        for start in range(0, len(reference), _ROWS):
            p, q = _log_softmax(reference[start : start + _ROWS]), _log_softmax(logits[start : start + _ROWS])
            best = p.argmax(-1)
            self._first += int((best == q.argmax(-1)).sum())
            self._among_five += int(((q > np.take_along_axis(q, best[:, None], -1)).sum(-1) < 5).sum())
            self._kld.append((np.exp(p) * (p - q)).sum(-1))
            following = targets[start : start + _ROWS]
            rows = np.arange(len(following))
            self._reference_nll.append(-p[rows, following])
            self._nll.append(-q[rows, following])

    def report(self) -> dict[str, Any]:
        """KL divergence in nats, agreement as a share, perplexities with their standard errors; docs/package-format.md has the keys."""
        kld = np.concatenate(self._kld)
        values: dict[str, Any] = {
            "tokens": len(kld),
            "mean_kld": float(kld.mean()),
            "median_kld": float(np.median(kld)),
            "p99_kld": float(np.percentile(kld, 99)),
            "max_kld": float(kld.max()),
            "top1_agreement": self._first / len(kld),
            "top5_agreement": self._among_five / len(kld),
        }
        expected, found = np.concatenate(self._reference_nll), np.concatenate(self._nll)
        if len(found):
            values["perplexity_reference"], values["perplexity_reference_error"] = _perplexity(expected)
            values["perplexity"], values["perplexity_error"] = _perplexity(found)
            # Of the ratio of both, which is known far better than either, for the same tokens are easy to both.
            values["perplexity_ratio"], values["perplexity_ratio_error"] = _perplexity(found - expected)
        return {key: round(value, 6) for key, value in values.items()} | {"quantiles": quantiles(kld)}


def quantiles(values: NDArray[np.float64]) -> list[float]:
    """What none, a twentieth, two twentieths ... all of the values do not exceed."""
    return [round(float(value), 6) for value in np.quantile(values, _QUANTILES)]


def _perplexity(nll: NDArray[np.float64]) -> tuple[float, float]:
    """exp of the mean, and its standard error to first order; 0 where one value alone tells nothing of the spread."""
    perplexity = float(np.exp(nll.mean()))
    return perplexity, perplexity * float(nll.std(ddof=1) / np.sqrt(len(nll))) if len(nll) > 1 else 0.0


def measure(
    reference: Callable[[], DecoderRows],
    candidate: Callable[[], DecoderRows],
    ids: Sequence[int],
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Runs both on the same ids and compares them.

    Args:
        reference: makes a decoder of the float graph.
        candidate: makes a decoder of the package.
        ids: the text; its last STEP_TOKENS are run a second time as decode steps.
        advance: told how many tokens were compared, for a progress bar.

    Returns:
        "prefill" and "decode": a Divergence report each; "steps_against_prefill": largest difference of the candidate's own
        logits between the two, relative to the largest logit.

    Raises:
        VerificationError: logits that are not finite.
    """
    prefill, decode = Divergence(), Divergence()
    steps = min(STEP_TOKENS, len(ids) - 1)
    first = len(ids) - steps
    tail_reference: list[Logits] = []
    tail_candidate: list[Logits] = []
    done = 0
    for expected, found in zip(
        _finite(reference(), ids, "the float graph"), _finite(candidate(), ids, "the package"), strict=True
    ):
        prefill.add(expected, found, ids[done + 1 : done + 1 + len(found)])
        keep = max(0, first - done)
        tail_reference.append(expected[keep:].copy())
        tail_candidate.append(found[keep:].copy())
        done += len(found)
        advance(len(found))
    expected_tail, found_tail = np.concatenate(tail_reference), np.concatenate(tail_candidate)
    decoder = candidate()
    decoder.prefill(0, ids[:first])
    drift = 0.0
    for i, token in enumerate(ids[first:]):
        logits = decoder.step([token])
        decode.add(expected_tail[i : i + 1], logits, ids[first + i + 1 : first + i + 2])
        drift = max(drift, float(np.abs(logits[0] - found_tail[i]).max()))
        advance(1)
    scale = float(np.abs(found_tail).max())
    return {"prefill": prefill.report(), "decode": decode.report(), "steps_against_prefill": round(drift / scale, 8)}


def require_consistent(quality: dict[str, Any]) -> None:
    """A float export has no excuse for decode steps that differ from prefill.

    Raises:
        VerificationError: they differ by more than 1e-3 of the logits' scale.
    """
    require_steady(quality["steps_against_prefill"])


def require_steady(drift: float) -> None:
    """The same, of the drift itself."""
    if not drift <= _STEP_TOLERANCE:
        raise VerificationError(
            f"the float export disagrees with itself: decode steps differ from prefill by {drift:.2g} of the logits' scale "
            f"(allowed {_STEP_TOLERANCE:g}); this is a defect of the architecture's definition or of this ONNX Runtime, please report it"
        )


def _finite(decoder: DecoderRows, ids: Sequence[int], who: str) -> Iterator[Logits]:
    done = 0
    for logits in decoder.all_logits(0, ids, _CHUNK):
        require_finite(logits, who, done)
        done += len(logits)
        yield logits


def require_finite(logits: Logits, who: str, done: int = 0) -> None:
    """No logits [n, vocab_size] of positions from `done` on are NaN or infinite.

    Raises:
        VerificationError: some are.
    """
    if not np.isfinite(logits).all():
        bad = done + int(np.flatnonzero(~np.isfinite(logits).all(-1))[0])
        raise VerificationError(
            f"{who} yields NaN or infinite logits from position {bad} on; the checkpoint may be damaged, or overflow in this precision"
        )


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted
