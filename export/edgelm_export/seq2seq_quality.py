"""How far an encoder-decoder package is from its float graph: both rewrite the clauses of one text, and are compared on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgelm.rows import AnySeq2Seq
from edgelm.tokenizer import Tokenizer
from edgelm_export.quality import Divergence, require_finite, require_steady

SOURCES = 200
_NEW_TOKENS = 32
_BATCH = 8
_CLAUSE = re.compile(r"(?<=[.!?,;:])[\"')]*\s+")
_WORDS = 8  # of a source at most


@dataclass(frozen=True)
class Writer:
    """A model that is compared: its programs, its tokenizer, and the tokens that targets start and end with."""

    programs: AnySeq2Seq
    tokenizer: Tokenizer
    start: int
    ends: frozenset[int]

    def write(self, sources: Sequence[Sequence[int]]) -> list[list[int]]:
        """The greedy target of each source, its end included if it comes in time."""
        decoder = self.programs.start(sources)
        room = min(_NEW_TOKENS, self.programs.limit)
        targets: list[list[int]] = [[] for _ in sources]
        logits = np.stack([row.copy() for _, row in decoder.start([[self.start]] * len(sources))])
        for done in range(1, room + 1):
            chosen = logits.argmax(-1)
            for target, token in zip(targets, chosen.tolist(), strict=True):
                if not target or target[-1] not in self.ends:
                    target.append(token)
            if done == room or all(target[-1] in self.ends for target in targets):
                break
            logits = decoder.step(chosen.tolist())
        return targets


def clauses(text: str, tokenizer: Tokenizer, context_length: int, vocab_size: int) -> list[list[int]]:
    """The text by clauses and pieces of them, as ids; what is too long is cut."""
    words = [clause.split() for clause in _CLAUSE.split(text)]
    pieces = [part[start : start + _WORDS] for part in words for start in range(0, len(part), _WORDS)]
    texts = [" ".join(piece) for piece in pieces][:SOURCES]
    cut = [[token for token in tokenizer.encode(text) if token < vocab_size][:context_length] for text in texts]
    return [ids for ids in cut if ids]


def measure_seq2seq(
    reference: Writer, candidate: Writer, sources: Sequence[Sequence[int]], advance: Callable[[int], None]
) -> dict[str, Any]:
    """Compares what two models write.

    Returns:
        "decode": a Divergence report over the tokens that the float graph writes; "outputs": "texts", and "character_error_rate",
        edits from its texts to the other's, a character of its own; "steps_against_prefill": largest difference of the float graph's own
        logits between the two, relative to the largest logit.

    Raises:
        VerificationError: logits that are not finite, or a float graph that disagrees with itself.
    """
    divergence, edits, characters, drift = Divergence(), 0, 0, 0.0
    for first in range(0, len(sources), _BATCH):
        batch = sources[first : first + _BATCH]
        written = reference.write(batch)
        for source, target, other in zip(batch, written, candidate.write(batch), strict=True):
            fed = [reference.start, *target[:-1]]
            expected, found = (writer.programs.logits(source, fed) for writer in (reference, candidate))
            require_finite(expected, "the float graph")
            require_finite(found, "the package")
            divergence.add(expected, found, target)
            if first == 0:
                drift = max(drift, _drift(reference.programs, source, fed, expected))
            texts = [reference.tokenizer.decode(ids) for ids in (target, other)]
            edits += edit_distance(*texts)
            characters += len(texts[0])
        advance(len(batch))
    require_steady(drift)
    return {
        "decode": divergence.report(),
        "outputs": {"texts": len(sources), "character_error_rate": round(edits / max(characters, 1), 6)},
        "steps_against_prefill": round(drift, 8),
    }


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions and replacements that turn one text into the other (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def _drift(programs: AnySeq2Seq, source: Sequence[int], fed: Sequence[int], expected: np.ndarray) -> float:
    decoder = programs.start([source])
    steps = np.stack([decoder.step([token])[0].copy() for token in fed])
    return float(np.abs(steps - expected).max() / np.abs(expected).max())
