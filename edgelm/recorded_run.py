"""A short run that an export records in the manifest and `edgelm verify` repeats: ids in; what the package makes of them out.

What writes text continues the ids greedily. When that is repeated, the recorded tokens are fed, whatever is computed, so that each step is
tried for itself: one near tie that falls the other way on another processor does not change the steps behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import signature, tasks
from edgelm.encode import Encoder, Row
from edgelm.manifest import Manifest
from edgelm.protocols import Rows
from edgelm.rows import DECODER, ENCODER, decoder_rows, seq2seq
from edgelm.session import Program

Logits = NDArray[np.float32]
Programs = Mapping[str, Program]

_IDS, _NEW_TOKENS, _VALUES = 16, 24, 16

# How far below the likeliest a recorded token may be, as a share of the largest logit, and how far a value may be from the recorded one, as
# a share of the largest value. Kernels of other processors sum in another order, which moves what rounds its input by a few thousandths.
NEAR_TIE = 0.02


@dataclass(frozen=True)
class Repeated:
    """What came of a repetition: how many outputs are as recorded, how many nearly, and how far the worst is off."""

    compared: int
    same: int
    near: int
    worst: float

    @property
    def right(self) -> bool:
        """Whether nothing is off by more than a near tie."""
        return self.same + self.near == self.compared

    def __str__(self) -> str:
        near = f", {self.near} nearly (off by {self.worst:.2g} of the largest)" if self.near else ""
        return f"{self.same} of {self.compared} outputs as recorded{near}"


def record(manifest: Manifest, programs: Programs, ids: Sequence[int]) -> dict[str, Any]:
    """What the manifest shall say of a run on the first of these ids: "input_ids", and "token_ids" or "output", "values", "scale".

    Args:
        manifest: of the package.
        programs: its programs, loaded.
        ids: a text as its tokenizer reads it.
    """
    given = list(ids[: min(_IDS, max(1, manifest.context_length // 2))])
    if manifest.family == "encoder":
        name, values, scale = _said(manifest, programs, given)
        return {
            "input_ids": given,
            "output": name,
            "values": [float(f"{value:.6g}") for value in values],
            "scale": scale,
        }
    rows, logits = _begin(manifest, programs, given)
    room = manifest.context_length - (len(given) if manifest.family == "decoder" else 1)
    tokens = [int(logits.argmax())]
    while len(tokens) < min(_NEW_TOKENS, room):
        tokens.append(int(rows.step(tokens[-1:])[0].argmax()))
    return {"input_ids": given, "token_ids": tokens}


def repeat(manifest: Manifest, programs: Programs) -> Repeated:
    """Runs what the manifest recorded once more.

    Raises:
        KeyError, TypeError: it recorded something else than `record` gives.
    """
    recorded = manifest.recorded_run
    if manifest.family == "encoder":
        _, values, _ = _said(manifest, programs, recorded["input_ids"])
        found = [abs(value - was) / recorded["scale"] for value, was in zip(values, recorded["values"], strict=True)]
        same = [error < 1e-4 for error in found]
        return _repeated(found, same)
    tokens = recorded["token_ids"]
    rows, logits = _begin(manifest, programs, recorded["input_ids"])
    deficits: list[float] = []
    for i, token in enumerate(tokens):
        deficits.append(float((logits.max() - logits[token]) / np.abs(logits).max()))
        if i + 1 < len(tokens):
            logits = rows.step([token])[0]
    return _repeated(deficits, [deficit == 0 for deficit in deficits])


def _repeated(errors: Sequence[float], same: Sequence[bool]) -> Repeated:
    near = sum(not exact and error <= NEAR_TIE for error, exact in zip(errors, same, strict=True))
    return Repeated(len(errors), sum(same), near, max(errors))


def _begin(manifest: Manifest, programs: Programs, ids: Sequence[int]) -> tuple[Rows, Logits]:
    """A batch of one whose prompt, or source, is the ids, and the first logits [vocab_size]."""
    limit = manifest.context_length
    if manifest.family == "decoder":
        rows, prompt = decoder_rows(manifest, programs[DECODER], batch=1, limit=limit), ids
    else:
        encoder = Encoder(programs[ENCODER], manifest.encoder_facts.pad_token_id)
        rows, prompt = seq2seq(manifest, encoder, programs, limit).start([ids]), [manifest.start_token]
    [(_, logits)] = rows.start([prompt])
    return rows, logits


def _said(manifest: Manifest, programs: Programs, ids: Sequence[int]) -> tuple[str, list[float], float]:
    """What an encoder is for: the output's name, its first values, and its largest one."""
    encoder = Encoder(programs[ENCODER], manifest.encoder_facts.pad_token_id)
    order = (signature.SENTENCE_EMBEDDING, signature.LOGITS, signature.LAST_HIDDEN_STATE)
    name = next(output for output in order if output in encoder.names)
    positions = (len(ids) // 2,) if manifest.task == tasks.FILL_MASK else ()
    [values] = encoder.outputs([Row(ids, positions=positions)], [name])
    return name, values.ravel()[:_VALUES].tolist(), float(f"{np.abs(values).max():.6g}")
