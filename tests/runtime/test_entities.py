"""Scores of tokens to entities, by hand: the rules of transformers' pipeline, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgelm.entities import Entity, Piece, choose_aggregation, continues_word, find_entities, without_overlaps
from edgelm.errors import InvalidOption

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
TEXT = "Wolfgang in New York"
# Wolf gang in New York
SPANS = ((0, 4, False), (4, 8, True), (9, 11, False), (12, 15, False), (16, 20, False))


def pieces(*tagged: tuple[str, float] | Sequence[float]) -> list[Piece]:
    """One piece a span: a label with its score, the rest shared equally, or all scores."""
    found: list[Piece] = []
    for (start, end, continues), one in zip(SPANS, tagged, strict=False):
        found.append(Piece(_scores(one), start, end, continues))
    return found


def _scores(one: Any) -> np.ndarray:
    if isinstance(one[0], str):
        rest = (1 - one[1]) / (len(LABELS) - 1)
        return np.array([one[1] if label == one[0] else rest for label in LABELS])
    return np.array(one, np.float64)


def found(tagged: Sequence[Piece], aggregation: str, ignored: Sequence[str] = ("O",)) -> list[tuple[str, str, float]]:
    entities = find_entities(tagged, TEXT, LABELS, aggregation, ignored)
    assert all(entity.text == TEXT[entity.start : entity.end] for entity in entities)
    return [(entity.label, entity.text, round(entity.score, 6)) for entity in entities]


def test_none_gives_every_token_with_its_whole_label() -> None:
    tagged = pieces(("B-PER", 0.9), ("I-PER", 0.8), ("O", 0.7), ("B-LOC", 0.6), ("I-LOC", 0.5))
    assert found(tagged, "none") == [
        ("B-PER", "Wolf", 0.9), ("I-PER", "gang", 0.8), ("B-LOC", "New", 0.6), ("I-LOC", "York", 0.5),
    ]  # fmt: skip
    assert len(found(tagged, "none", ignored=())) == 5


def test_simple_joins_neighbours_and_averages_their_scores() -> None:
    tagged = pieces(("B-PER", 0.9), ("I-PER", 0.8), ("O", 0.7), ("B-LOC", 0.6), ("I-LOC", 0.5))
    assert found(tagged, "simple") == [("PER", "Wolfgang", 0.85), ("LOC", "New York", 0.55)]


def test_a_beginning_starts_an_entity_of_its_own() -> None:
    tagged = pieces(("B-PER", 0.9), ("B-PER", 0.8), ("I-PER", 0.7))
    assert [text for _, text, _ in found(tagged, "simple")] == ["Wolf", "gang in"]


def test_an_inside_without_a_beginning_is_an_entity_too() -> None:
    tagged = pieces(("I-PER", 0.9), ("I-LOC", 0.8), ("O", 0.9), ("I-LOC", 0.8))
    assert found(tagged, "simple") == [("PER", "Wolf", 0.9), ("LOC", "gang", 0.8), ("LOC", "New", 0.8)]


def test_labels_without_a_prefix_are_joined() -> None:
    assert found(pieces(("MISC", 0.9), ("MISC", 0.7)), "simple") == [("MISC", "Wolfgang", 0.8)]


def test_ignored_labels_are_left_out_after_joining_and_still_part_entities() -> None:
    tagged = pieces(("I-PER", 0.9), ("O", 0.9), ("I-PER", 0.8))
    assert found(tagged, "simple") == [("PER", "Wolf", 0.9), ("PER", "in", 0.8)]
    assert found(tagged, "simple", ignored=("PER",)) == [("O", "gang", 0.9)]
    assert found(tagged, "none", ignored=("PER",)) == found(tagged, "none", ignored=())


# "Wolf" alone is a place, "gang" surely a person; the word is given one label before words are joined.
SPLIT = ([0.1, 0.0, 0.2, 0.0, 0.7, 0.0], [0.0, 0.0, 0.8, 0.0, 0.2, 0.0])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("first", ("LOC", "Wolfgang", 0.7)),
        ("max", ("PER", "Wolfgang", 0.8)),
        ("average", ("PER", "Wolfgang", 0.5)),
    ],
)
def test_all_tokens_of_a_word_get_one_label(aggregation: str, expected: tuple[str, str, float]) -> None:
    assert found(pieces(*SPLIT), aggregation) == [expected]
    assert [label for label, *_ in found(pieces(*SPLIT), "simple")] == ["LOC", "PER"]


def test_words_are_joined_after_they_were_given_labels() -> None:
    tagged = pieces(*SPLIT, ("O", 0.9), ("B-LOC", 0.6), ("I-LOC", 0.8))
    assert found(tagged, "max") == [("PER", "Wolfgang", 0.8), ("LOC", "New York", 0.7)]


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_no_tokens_have_no_entities(aggregation: str) -> None:
    assert find_entities([], "", LABELS, aggregation) == []


@pytest.mark.parametrize(
    ("token", "text", "span", "prefix", "expected"),
    [
        ("##gang", "Wolfgang", (4, 8), "##", True),
        ("wolf", "Wolfgang", (0, 4), "##", False),
        ("gang", "Wolf gang", (5, 9), "##", False),
        ("▁gang", "Wolf gang", (4, 9), None, False),
        ("gang", "Wolfgang", (4, 8), None, True),
        ("Ġgang", "Wolf gang", (5, 9), "", False),
        ("▁Wolf", "Wolfgang", (0, 4), None, False),
        (",", "Wolf, gang", (4, 5), None, True),  # what no space separates counts as one word
    ],
)
def test_tokens_continue_words_by_prefix_or_by_spaces(
    token: str, text: str, span: tuple[int, int], prefix: str | None, expected: bool
) -> None:
    assert continues_word(token, text, span, prefix) is expected


def entity(start: int, end: int, score: float = 0.5) -> Entity:
    return Entity("X", score, start, end, "")


def test_of_entities_that_overlap_the_longer_stays_and_of_equals_the_surer() -> None:
    assert without_overlaps([entity(0, 4), entity(2, 8), entity(10, 12)]) == [entity(2, 8), entity(10, 12)]
    assert without_overlaps([entity(10, 12), entity(0, 4, 0.9), entity(0, 4, 0.6)]) == [
        entity(0, 4, 0.9),
        entity(10, 12),
    ]
    assert without_overlaps([entity(0, 4, 0.6), entity(0, 4, 0.9)]) == [entity(0, 4, 0.9)]
    assert without_overlaps([entity(0, 8), entity(2, 4, 0.9), entity(8, 9)]) == [entity(0, 8), entity(8, 9)]
    assert without_overlaps([]) == []


def test_surrounding_spaces_are_no_part_of_the_text_of_an_entity() -> None:
    (found,) = find_entities([Piece(np.array([0.0, 1.0]), 8, 11)], TEXT, ("O", "PER"), "simple", ("O",))
    assert (found.start, found.end, found.text) == (8, 11, "in")


def test_an_aggregation_fits_the_model_and_the_call() -> None:
    assert choose_aggregation(None, labelled=True, windows=False) == "simple"
    assert choose_aggregation(None, labelled=False, windows=False) == "none"
    assert choose_aggregation("max", labelled=True, windows=True) == "max"


@pytest.mark.parametrize(
    ("asked", "labelled", "windows", "match"),
    [
        ("best", True, False, r"aggregation 'best' is not known \(known: none, simple, first, average, max\)"),
        ("simple", False, False, "aggregation 'simple' joins labels, and this model only scores tokens; leave it out"),
        ("none", True, True, "stride needs an aggregation, which joins what windows share; leave it out, or truncate"),
        (None, False, True, "stride needs an aggregation"),
    ],
)
def test_other_aggregations_are_refused(asked: str | None, labelled: bool, windows: bool, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        choose_aggregation(asked, labelled=labelled, windows=windows)
