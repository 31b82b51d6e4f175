"""How far an encoder package is from the float graph of the same checkpoint: both run the sentences of one text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import signature, tasks
from edgelm.encode import Encoder, Row
from edgelm.errors import VerificationError
from edgelm.tokenizer import Tokenizer
from edgelm_export.quality import quantiles

Array = NDArray[np.float32]

# A float graph must agree with itself: padded against alone, relative to the largest value.
_PADDING_TOLERANCE = 1e-3
_SENTENCE = re.compile(r"(?<=[.!?])[\"')]*\s+")
_LONGEST = 512  # tokens of a text; what is longer is cut here


def evaluation_rows(
    text: str, tokenizer: Tokenizer, context_length: int, vocab_size: int, *, masked: bool = False
) -> list[Row]:
    """The text by sentences, and by paragraphs for what only long texts show.

    Args:
        masked: ask each row for the logits of the token in its middle, which is replaced by the mask token.
    """
    paragraphs = [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
    sentences = [part for paragraph in paragraphs for part in _SENTENCE.split(paragraph) if part.strip()]
    limit = min(context_length, _LONGEST)
    token = tokenizer.special_token("mask_token") if masked else None
    mask = None if token is None else tokenizer.token_id(token)
    rows: list[Row] = []
    for part in sentences + paragraphs:
        ids = [token for token in tokenizer.encode(part) if token < vocab_size][:limit]
        middle = len(ids) // 2
        if mask is not None and ids:
            ids[middle] = mask
        if ids:
            rows.append(Row(ids, positions=(middle,) if masked else ()))
    return rows


def measure_encoder(
    task: str, reference: Encoder, candidate: Encoder, rows: Sequence[Row], advance: Callable[[int], None]
) -> dict[str, Any]:
    """Compares the outputs of two encoders, row by row.

    Returns:
        "outputs": "texts"; "mean_cosine" and "worst_cosine" between what both say about a text (its embedding, or all its hidden
        states, or its logits where Optimum's graph has nothing else); "label_agreement", the share of decisions that are
        the same, for tasks that decide; "quantiles" of 1 - cosine.

    Raises:
        VerificationError: outputs that are not finite.
    """
    vectors = signature.SENTENCE_EMBEDDING if task == tasks.EMBEDDING else signature.LAST_HIDDEN_STATE
    if vectors not in candidate.names:
        vectors = signature.LOGITS
    names = [vectors] + ([signature.LOGITS] if task in DECISIONS else [])
    cosines: list[float] = []
    same = total = 0
    for i, row in enumerate(rows):
        expected = [_finite(values, i, "the float graph") for values in reference.outputs([row], names)]
        found = [_finite(values, i, "the package") for values in candidate.outputs([row], names)]
        cosines.append(_cosine(expected[0], found[0]))
        if task in DECISIONS:
            chosen, wanted = DECISIONS[task](found[1]), DECISIONS[task](expected[1])
            same += int((chosen == wanted).sum())
            total += chosen.size
        advance(1)
    report: dict[str, Any] = {
        "texts": len(rows),
        "mean_cosine": round(float(np.mean(cosines)), 6),
        "worst_cosine": round(float(np.min(cosines)), 6),
        "quantiles": quantiles(1 - np.minimum(cosines, 1)),
    }
    return {"outputs": report | ({"label_agreement": round(same / total, 6)} if total else {})}


def require_padding_harmless(encoder: Encoder, rows: Sequence[Row], output: str) -> None:
    """A float export has no excuse for a text that changes with the padding behind it.

    Raises:
        VerificationError: it does, by more than 1e-3 of the largest value.
    """
    short, long = min(rows, key=lambda row: len(row.ids)), max(rows, key=lambda row: len(row.ids))
    alone = encoder.outputs([short], [output])[0][0]
    padded = encoder.outputs([short, long], [output])[0][0]
    drift = float(np.abs(padded[: len(alone)] - alone).max() / np.abs(alone).max())
    if not drift <= _PADDING_TOLERANCE:
        raise VerificationError(
            f"the float export disagrees with itself: padding changes a text by {drift:.2g} of its largest value "
            f"(allowed {_PADDING_TOLERANCE:g}); this is a defect of the architecture's definition or of this ONNX Runtime, please report it"
        )


def _best(logits: Array) -> NDArray[Any]:
    return logits.argmax(-1)


def _spans(logits: Array) -> NDArray[Any]:
    return logits.argmax(1)  # of [batch, tokens, 2]: where an answer starts and ends


def _signs(logits: Array) -> NDArray[Any]:
    return logits > 0


# What a task makes of its logits, as far as it is a yes or no or a choice.
DECISIONS: dict[str, Callable[[Array], NDArray[Any]]] = {
    tasks.SEQUENCE_CLASSIFICATION: lambda logits: _signs(logits) if logits.shape[-1] == 1 else _best(logits),
    tasks.RERANKING: _signs,
    tasks.TOKEN_CLASSIFICATION: _best,
    tasks.QUESTION_ANSWERING: _spans,
    tasks.FILL_MASK: _best,
    tasks.REPLACED_TOKEN_DETECTION: _signs,
}


def _cosine(a: Array, b: Array) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-30))


def _finite(values: Array, row: int, who: str) -> Array:
    if not np.isfinite(values).all():
        raise VerificationError(
            f"{who} yields NaN or infinite values for text {row} of the evaluation text; "
            "the checkpoint may be damaged, or overflow in this precision"
        )
    return values
