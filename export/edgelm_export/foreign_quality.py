"""How far Optimum's float graphs are from the transformers model they trace: a trace may be wrong for other lengths than its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgelm import signature, tasks
from edgelm.encode import Encoder, Row
from edgelm.errors import EdgeLMError, VerificationError
from edgelm.package import Package
from edgelm.rows import DECODER, ENCODER, decoder_rows, seq2seq
from edgelm.session import Program
from edgelm_export.evaluation import EvaluationText
from edgelm_export.verify import evaluation_ids, text_rows

if TYPE_CHECKING:
    from edgelm_export.optimum import Original

Array = NDArray[np.float32]

# Relative to the largest value. Traces that are right are within 1e-5; a wrong mask is off by far more.
_TOLERANCE = 1e-3
_LENGTHS = (5, 23, 201, 1021)  # a trace is made at 16, and may hold for its multiples only
_TARGET = 24
_TEXTS = 8


def against_original(
    package: Package, original: Original, programs: Mapping[str, Program], text: EvaluationText
) -> float:
    """The largest difference between the two on pieces of the text, relative to the largest value.

    Raises:
        VerificationError: more than 1e-3.
    """
    measures = {"decoder": _decoder, "encoder-decoder": _seq2seq, "encoder": _encoder}
    try:
        expected, found = measures[package.manifest.family](package, original, programs, text)
    except EdgeLMError:
        raise
    except Exception as error:  # ONNX Runtime raises bare types
        raise VerificationError(
            f"Optimum's graph of {package.manifest.architecture} does not run on the evaluation text, so its trace holds for some "
            f"lengths only ({str(error).strip().splitlines()[0][:300]}); {_OTHER_VERSIONS}"
        ) from error
    errors = [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(expected, found, strict=True)]
    error = max(errors, default=0.0)
    if not error <= _TOLERANCE:
        raise VerificationError(
            f"Optimum's graph of {package.manifest.architecture} differs from transformers by {error:.2g} of the largest value "
            f"(allowed {_TOLERANCE:g}); the trace is wrong for other lengths than its own, and so would the package be; {_OTHER_VERSIONS}"
        )
    return round(error, 8)


_OTHER_VERSIONS = "another version of Optimum or transformers may do better"

Pair = tuple[list[Array], list[Array]]


def _decoder(package: Package, original: Original, programs: Mapping[str, Program], text: EvaluationText) -> Pair:
    ids = evaluation_ids(package, text)
    expected = original.run(_text(ids))[signature.LOGITS][0]
    rows = decoder_rows(package.manifest, programs[DECODER], batch=1, limit=package.manifest.context_length)
    return [expected], [np.concatenate(list(rows.all_logits(0, ids)))]


def _seq2seq(package: Package, original: Original, programs: Mapping[str, Program], text: EvaluationText) -> Pair:
    m = package.manifest
    ids = evaluation_ids(package, text)
    target = [m.start_token, *(token for token in ids if token < m.vocab_size)][:_TARGET]
    given = {"decoder_input_ids": np.array([target], np.int64)}
    both = seq2seq(m, Encoder(programs[ENCODER], m.encoder_facts.pad_token_id), programs, m.context_length)
    sources = [ids[:length] for length in _LENGTHS]
    expected = [original.run({**_text(source), **given})[signature.LOGITS][0] for source in sources]
    return expected, [both.logits(source, target) for source in sources]


def _encoder(package: Package, original: Original, programs: Mapping[str, Program], text: EvaluationText) -> Pair:
    m = package.manifest
    rows = text_rows(package, text)
    rows = [*rows[:_TEXTS], *rows[-1:]]  # sentences, and a paragraph
    output = signature.LAST_HIDDEN_STATE if m.task in (tasks.HIDDEN_STATES, tasks.EMBEDDING) else signature.LOGITS
    encoder = Encoder(programs[ENCODER], m.encoder_facts.pad_token_id)
    expected = [_said(original, row, output) for row in rows]
    return expected, [encoder.outputs([row], [output])[0][0] for row in rows]


def _said(original: Original, row: Row, output: str) -> Array:
    said = original.run(_text(list(row.ids)))
    if f"start_{output}" in said:
        return np.stack([said[f"start_{output}"][0], said[f"end_{output}"][0]], axis=-1)
    values = said[output][0]
    return values[list(row.positions)] if row.positions else values


def _text(ids: list[int]) -> dict[str, NDArray[np.int64]]:
    return {
        signature.INPUT_IDS: np.array([ids], np.int64),
        signature.ATTENTION_MASK: np.ones((1, len(ids)), np.int64),
    }
