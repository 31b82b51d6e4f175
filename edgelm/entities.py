"""Scores of a text's tokens in, entities out: what transformers' token classification pipeline does, on arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import InvalidOption
from edgelm.labels import sigmoid
from edgelm.tokenized import NONE, Tokenized
from edgelm.tokenizer import Tokenizer

Aggregation = Literal["none", "simple", "first", "average", "max"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Entity:
    """A span of a text and its label.

    Attributes:
        label: without its prefix B- or I-, but for single tokens.
        score: how sure the model is, a mean over the words or tokens of the span; of ELECTRA's discriminator, the
            probability that the token was replaced.
        start: of the span in the text, in characters, as the tokenizer counts: SentencePiece counts the space before a
            word to the word.
        end: where it ends, exclusive.
        text: what stands there, without spaces around it.
    """

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Piece:
    """A token that is no special token: the scores [labels] it has, its span, and whether it continues a word."""

    scores: Scores
    start: int
    end: int
    continues: bool = False


@dataclass(frozen=True)
class _Tagged:
    """A span and the label it was found to have, prefix included."""

    label: str
    score: float
    start: int
    end: int


def choose_aggregation(asked: str | None, *, labelled: bool, windows: bool) -> str:
    """The aggregation of a call: the one asked for, or "simple", or "none" where tokens have no labels but scores.

    Args:
        labelled: tokens have labels, which may be joined.
        windows: the text is read in windows, whose tokens overlap.

    Raises:
        InvalidOption: it is unknown, or does not go with the rest.
    """
    chosen = ("simple" if labelled else "none") if asked is None else asked
    if chosen not in AGGREGATIONS:
        raise InvalidOption(f"aggregation {chosen!r} is not known (known: {', '.join(AGGREGATIONS)})")
    if not labelled and chosen != "none":
        raise InvalidOption(f"aggregation {chosen!r} joins labels, and this model only scores tokens; leave it out")
    if windows and chosen == "none":
        raise InvalidOption("stride needs an aggregation, which joins what windows share; leave it out, or truncate")
    return chosen


def read_pieces(tokens: Tokenized, scores: Scores, tokenizer: Tokenizer) -> list[Piece]:
    """The tokens of a text with their scores [tokens, labels]."""
    unknown = tokenizer.special_token("unk_token")
    pieces: list[Piece] = []
    for token_id, part, (start, end), row in zip(
        tokens.ids.tolist(), tokens.parts.tolist(), tokens.offsets.tolist(), scores, strict=True
    ):
        if part != NONE:
            token = tokenizer.token(token_id) or ""
            known = token != unknown
            continues = known and continues_word(token, tokens.text, (start, end), tokenizer.subword_prefix)
            pieces.append(Piece(row, start, end, continues))
    return pieces


def continues_word(token: str, text: str, span: tuple[int, int], prefix: str | None) -> bool:
    """Whether a token continues the word before it, by the rules of thumb that transformers has.

    Where tokens that continue a word begin with a prefix, those are longer than what they stand for. Elsewhere words are
    taken to be what spaces separate.
    """
    start, end = span
    if prefix:
        return len(token) != end - start
    return start > 0 and " " not in text[start - 1 : start + 1]


def find_entities(
    pieces: Sequence[Piece], text: str, labels: Sequence[str], aggregation: str, ignored: Collection[str] = ()
) -> list[Entity]:
    """The entities of a text, in its order.

    Args:
        pieces: the tokens of the text, or of a window of it.
        text: what their spans count in.
        labels: names of their scores.
        aggregation: "none" gives every token; "simple" joins neighbours of one label; "first", "average" and "max" do
            so after they gave all tokens of a word one label: that of its first token, of the mean of their scores, or
            of the surest of them.
        ignored: labels that are left out of the result.
    """
    if aggregation in ("none", "simple"):
        tagged = [_tag(piece.scores, [piece], labels) for piece in pieces]
    else:
        tagged = [_tag(_word_scores(word, aggregation), word, labels) for word in _words(pieces)]
    found = tagged if aggregation == "none" else [_joined(group) for group in _groups(tagged)]
    return [
        Entity(one.label, one.score, one.start, one.end, text[one.start : one.end].strip())
        for one in found
        if one.label not in ignored
    ]


def replaced_tokens(tokens: Tokenized, logits: NDArray[np.float32], label: str) -> list[Entity]:
    """Every token of a text with the probability that it was replaced: logits [tokens, 1] of ELECTRA's discriminator."""
    scores = sigmoid(logits[:, 0])
    return [
        Entity(label, float(scores[i]), start, end, tokens.text[start:end].strip())
        for i, (start, end) in enumerate(tokens.offsets.tolist())
        if tokens.parts[i] != NONE
    ]


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """One entity of those that overlap, as windows do that share tokens: the longer one, of equals the surer one."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda one: one.start):
        if not kept or not kept[-1].start <= entity.start < kept[-1].end:
            kept.append(entity)
        elif (entity.end - entity.start, entity.score) > (kept[-1].end - kept[-1].start, kept[-1].score):
            kept[-1] = entity
    return kept


def _tag(scores: Scores, pieces: Sequence[Piece], labels: Sequence[str]) -> _Tagged:
    best = int(scores.argmax())
    return _Tagged(labels[best], float(scores[best]), pieces[0].start, pieces[-1].end)


def _words(pieces: Sequence[Piece]) -> list[list[Piece]]:
    words: list[list[Piece]] = []
    for piece in pieces:
        if words and piece.continues:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _word_scores(word: Sequence[Piece], aggregation: str) -> Scores:
    if aggregation == "first":
        return word[0].scores
    if aggregation == "max":
        return max(word, key=lambda piece: piece.scores.max()).scores
    return np.mean([piece.scores for piece in word], axis=0)


def _groups(tagged: Sequence[_Tagged]) -> list[list[_Tagged]]:
    """Neighbours of one label; B- begins a group of its own."""
    groups: list[list[_Tagged]] = []
    for one in tagged:
        begins, name = _split(one.label)
        if groups and not begins and name == _split(groups[-1][-1].label)[1]:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _split(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its name without B- or I-; names without either go on."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _joined(group: Sequence[_Tagged]) -> _Tagged:
    # The name is what stands behind the first dash, prefix or not: transformers' own reading.
    label = group[0].label.split("-", 1)[-1]
    return _Tagged(label, float(np.mean([one.score for one in group])), group[0].start, group[-1].end)
