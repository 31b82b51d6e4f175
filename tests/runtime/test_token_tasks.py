"""EncoderModel on single tokens: entities, ELECTRA's discriminator, answers and masks, from text to result."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgelm.answers import Answer
from edgelm.entities import Entity
from edgelm.errors import ContextOverflow, InvalidOption
from edgelm.text_encoding import EncoderModel
from tests.runtime.conftest import TAGS
from tests.runtime.encoders import SENTENCES, TOKENS, encoder_config, load_encoder, write_encoder

SAME = 1e-5
LONG = " ".join(SENTENCES) * 10
AGGREGATIONS = ("none", "simple", "first", "average", "max")
QUESTION = "Where does Anna live?"


def equal(found: list[Entity], expected: list[Entity]) -> None:
    """Equal up to what a batch may change."""
    assert [(e.label, e.start, e.end, e.text) for e in found] == [(e.label, e.start, e.end, e.text) for e in expected]
    assert [e.score for e in found] == pytest.approx([e.score for e in expected], abs=SAME)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_entities_do_not_depend_on_the_batch(tagger: EncoderModel, aggregation: Any) -> None:
    texts = SENTENCES * 2
    found = tagger.classify_tokens(texts, aggregation=aggregation)
    assert sum(map(len, found)) > len(texts)
    for text, entities in zip(texts, found, strict=True):
        equal(tagger.classify_tokens(text, aggregation=aggregation), entities)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_entities_say_where_they_stand(tagger: EncoderModel, aggregation: Any) -> None:
    for text in SENTENCES:
        for entity in tagger.classify_tokens(text, aggregation=aggregation):
            assert text[entity.start : entity.end] == entity.text
            assert entity.text == entity.text.strip() != ""
            assert 0 < entity.score <= 1


def test_every_token_but_special_ones_is_labelled(tagger: EncoderModel) -> None:
    found = tagger.classify_tokens("Wolfgang lives, ", aggregation="none", ignore_labels=())
    assert [(entity.text, entity.start) for entity in found] == [("Wolf", 0), ("gang", 4), ("lives", 9), (",", 14)]
    assert {entity.label for entity in found} <= set(TAGS)


def test_words_are_kept_whole_by_those_aggregations_that_know_words(tagger: EncoderModel) -> None:
    for aggregation in ("first", "average", "max"):
        found = tagger.classify_tokens("Wolfgang", aggregation=aggregation, ignore_labels=())
        assert [entity.text for entity in found] == ["Wolfgang"]


def test_simple_is_the_default(tagger: EncoderModel) -> None:
    assert tagger.classify_tokens(SENTENCES) == tagger.classify_tokens(SENTENCES, aggregation="simple")


def test_a_lone_label_is_ignored_like_a_list_of_one(tagger: EncoderModel) -> None:
    assert tagger.classify_tokens(SENTENCES, ignore_labels="PER") == tagger.classify_tokens(
        SENTENCES, ignore_labels=["PER"]
    )


def test_unknown_words_begin_a_word(tagger: EncoderModel) -> None:
    found = tagger.classify_tokens("zzz-zzz", aggregation="first", ignore_labels=())
    assert "".join(entity.text for entity in found) == "zzz-zzz"


@pytest.mark.parametrize("nothing", ["", "   "])
def test_a_text_of_nothing_has_no_entities(tagger: EncoderModel, nothing: str) -> None:
    assert tagger.classify_tokens(nothing) == []
    assert tagger.classify_tokens([nothing, nothing], aggregation="none") == [[], []]
    assert tagger.classify_tokens([]) == []


def test_spans_of_ids_count_in_the_text_that_they_decode_to(tagger: EncoderModel) -> None:
    text = "wolfgang lives in berlin, at the river"
    ids = tagger.tokenizer.encode(text)
    for aggregation in ("none", "simple", "first"):
        found = tagger.classify_tokens(ids, aggregation=aggregation, ignore_labels=())
        equal(found, tagger.classify_tokens(text, aggregation=aggregation, ignore_labels=()))


def test_a_long_text_is_read_in_windows(tagger: EncoderModel) -> None:
    found = tagger.classify_tokens(LONG, stride=10)
    assert found[-1].end > len(LONG) - 40
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert tagger.classify_tokens(SENTENCES, stride=10) == tagger.classify_tokens(SENTENCES)


def test_a_long_text_is_cut_when_asked(tagger: EncoderModel) -> None:
    found = tagger.classify_tokens([LONG, "anna"], truncate=True, aggregation="none", ignore_labels=())
    assert [len(entities) for entities in found] == [62, 1]
    message = r"text 1 has .* tokens and the model reads 64; for a text, stride reads it in windows and truncate=True"
    with pytest.raises(ContextOverflow, match=message):
        tagger.classify_tokens(["anna", LONG])
    for truncate, stride in ((True, None), (False, 4)):
        with pytest.raises(ContextOverflow, match="text 0 has 70 tokens .* token ids are never cut"):
            tagger.classify_tokens([5] * 70, truncate=truncate, stride=stride)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"aggregation": "best"}, InvalidOption, "aggregation 'best' is not known"),
        ({"aggregation": "none", "stride": 3}, InvalidOption, "stride needs an aggregation"),
        ({"stride": -1}, InvalidOption, "stride -1 is below 0"),
        ({"stride": 1.5}, InvalidOption, "stride 1.5 is no whole number"),
        (
            {"stride": 62},
            ContextOverflow,
            "windows of 64 tokens have room for 62 of a long text .* cannot share 62; choose",
        ),
        ({"batch_size": 0}, InvalidOption, "batch_size 0 is below 1"),
    ],
)
def test_impossible_tagging_is_refused(
    tagger: EncoderModel, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        tagger.classify_tokens("anna" if "batch_size" in options else LONG, **options)


def test_pairs_are_not_tagged(tagger: EncoderModel) -> None:
    with pytest.raises(InvalidOption, match="text 1 is a pair of texts, and tokens are labelled in one text at a time"):
        tagger.classify_tokens(["anna", ("who", "anna")])
    with pytest.raises(InvalidOption, match="text 0: the text holds half a surrogate pair"):
        tagger.classify_tokens("\ud800")


def test_a_discriminator_scores_every_token(discriminator: EncoderModel) -> None:
    found = discriminator.classify_tokens(SENTENCES)
    assert [entity.text for entity in found[1]][:4] == ["Wolf", "gang", "works", "at"]
    assert {entity.label for entities in found for entity in entities} == {"replaced"}
    assert {entity.score > 0.5 for entities in found for entity in entities} == {True, False}
    for text, entities in zip(SENTENCES, found, strict=True):
        equal(discriminator.classify_tokens(text, aggregation="none"), entities)
    ids = discriminator.tokenizer.encode("anna lives")
    equal(discriminator.classify_tokens(ids), discriminator.classify_tokens("anna lives"))
    with pytest.raises(InvalidOption, match="aggregation 'simple' joins labels, and this model only scores tokens"):
        discriminator.classify_tokens(SENTENCES, aggregation="simple")


def test_answers_do_not_depend_on_the_batch(reader: EncoderModel) -> None:
    contexts = [SENTENCES[1], LONG, SENTENCES[4]]
    found = reader.answer([QUESTION] * 3, contexts, top_k=3, batch_size=2)
    for context, answers in zip(contexts, found, strict=True):
        alone = reader.answer(QUESTION, context, top_k=3)
        assert [(a.start, a.end, a.text) for a in alone] == [(a.start, a.end, a.text) for a in answers]
        assert [a.score for a in alone] == pytest.approx([a.score for a in answers], abs=SAME)
        assert all(context[a.start : a.end].strip() == a.text for a in answers)


def test_one_question_or_one_context_goes_with_all_of_the_others(reader: EncoderModel) -> None:
    contexts, questions = [SENTENCES[0], SENTENCES[1]], [QUESTION, "Who works at Microsoft?"]
    one = [reader.answer(QUESTION, context)[0].text for context in contexts]
    assert [answers[0].text for answers in reader.answer(QUESTION, contexts)] == one
    two = [reader.answer(question, contexts[0])[0].text for question in questions]
    assert [answers[0].text for answers in reader.answer(questions, contexts[0])] == two
    assert reader.answer([], []) == reader.answer(QUESTION, []) == []
    assert isinstance(reader.answer([QUESTION], [SENTENCES[0]])[0], list)


def test_an_answer_in_a_long_context_is_the_best_of_its_windows(reader: EncoderModel) -> None:
    (found,) = reader.answer(QUESTION, LONG, max_answer_length=5)
    assert 0 < found.end <= len(LONG)
    assert len(reader.tokenizer.encode(found.text, add_special_tokens=False)) <= 8  # five, widened to words
    smaller = reader.answer(QUESTION, LONG, window=32, stride=4, top_k=4)
    assert len(smaller) == 4
    assert {answer.text for answer in smaller} != {found.text}


@pytest.mark.parametrize("nothing", ["", "   "])
def test_a_context_of_nothing_has_no_answer(reader: EncoderModel, nothing: str) -> None:
    assert reader.answer(QUESTION, nothing) == []
    assert reader.answer(QUESTION, nothing, no_answer=True) == [Answer("", 1.0, 0, 0)]


def test_that_there_is_no_answer_is_among_the_answers_when_asked(reader: EncoderModel) -> None:
    found = reader.answer(QUESTION, SENTENCES[0], top_k=100, no_answer=True)
    assert sum(answer.text == "" for answer in found) == 1
    assert all(answer.text for answer in reader.answer(QUESTION, SENTENCES[0], top_k=100))


def test_a_question_is_never_cut(reader: EncoderModel) -> None:
    long_question = "who lives in berlin " * 15  # 60 tokens
    match = (
        "windows of 64 tokens have room for 1 of a long text beside its question .* cannot share 32; .* or shorten the"
    )
    with pytest.raises(ContextOverflow, match=match):
        reader.answer(long_question, SENTENCES[0])
    with pytest.raises(ContextOverflow, match="have room for 0 of a long text"):
        reader.answer(long_question * 2, SENTENCES[0])
    assert reader.answer(long_question, "anna")[0].text == "anna"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"top_k": 0}, "top_k 0 is below 1"),
        ({"max_answer_length": 0}, "max_answer_length 0 is below 1"),
        ({"window": 0}, "window 0 is below 1"),
        ({"window": 65}, "window 65 is more than the 64 tokens that the model reads"),
        ({"stride": -1}, "stride -1 is below 0"),
        ({"batch_size": 0}, "batch_size 0 is below 1"),
    ],
)
def test_impossible_questions_are_refused(reader: EncoderModel, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        reader.answer(QUESTION, SENTENCES[0], **options)


@pytest.mark.parametrize(
    ("question", "context", "match"),
    [
        ([QUESTION], ["a", "b"], "1 questions and 2 contexts do not pair up; give as many"),
        (QUESTION, [[2, 5, 3]], "question and context 0 are no texts; answer takes texts only"),
        ([QUESTION, 3], "a", "question and context 1 are no texts"),
        (QUESTION, 5, "question and context are no texts; answer takes texts, or lists of them"),
        (None, "a", "question and context are no texts"),
        ("\ud800", "a", "text 0: the text holds half a surrogate pair"),
    ],
)
def test_questions_and_contexts_that_are_no_texts_are_refused(
    reader: EncoderModel, question: Any, context: Any, match: str
) -> None:
    with pytest.raises(InvalidOption, match=match):
        reader.answer(question, context)


def test_masks_are_filled_alike_in_any_batch(filler: EncoderModel) -> None:
    texts = ["Anna lives in [MASK].", "[MASK] is [MASK] capital of Italy, [MASK]", "[MASK]"]
    found = filler.fill_mask(texts)
    assert [[len(predictions) for predictions in masks] for masks in found] == [[5], [5, 5, 5], [5]]
    for text, masks in zip(texts, found, strict=True):
        for one, other in zip(filler.fill_mask(text), masks, strict=True):
            assert [p.token_id for p in one] == [p.token_id for p in other]
            assert [p.score for p in one] == pytest.approx([p.score for p in other], abs=SAME)


def test_predictions_are_probabilities_of_the_whole_vocabulary(filler: EncoderModel) -> None:
    (found,) = filler.fill_mask("Anna lives in [MASK].", top_k=1000)
    assert len(found) == len(TOKENS)
    assert sum(p.score for p in found) == pytest.approx(1)
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    assert all(p.token == TOKENS[p.token_id] for p in found)


def test_the_text_of_a_prediction_has_its_mask_filled_and_others_left(filler: EncoderModel) -> None:
    first, second = filler.fill_mask("Anna lives in [MASK], [MASK]", targets="Berlin")
    assert (first[0].text, second[0].text) == ("anna lives in berlin, [MASK]", "anna lives in [MASK], berlin")
    assert filler.fill_mask("Anna [MASK] in Berlin", targets="##ing")[0][0].text == "annaing in berlin"


def test_targets_are_tokens_or_texts_of_one_token(filler: EncoderModel) -> None:
    (found,) = filler.fill_mask("Anna [MASK]", targets=["Berlin", "##ing", "lives", "berlin"], top_k=9)
    assert {p.token for p in found} == {"berlin", "##ing", "lives"}
    everything = {p.token_id: p.score for p in filler.fill_mask("Anna [MASK]", top_k=1000)[0]}
    assert all(p.score == everything[p.token_id] for p in found)


def test_masks_among_ids_are_filled(filler: EncoderModel) -> None:
    ids = filler.tokenizer.encode("Anna lives in [MASK].")
    assert filler.fill_mask(ids) == filler.fill_mask("Anna lives in [MASK].")
    assert filler.fill_mask([]) == []


@pytest.mark.parametrize(
    ("texts", "options", "match"),
    [
        (["[MASK]", "anna"], {}, r"text 1 has no \[MASK\] to fill; put it where a token is missing"),
        ("", {}, r"text 0 has no \[MASK\] to fill"),
        ([2, 5, 3], {}, r"text 0 has no \[MASK\] to fill"),
        ("[MASK]", {"top_k": 0}, "top_k 0 is below 1"),
        ("[MASK]", {"batch_size": 0}, "batch_size 0 is below 1"),
        ("[MASK]", {"targets": []}, "targets is empty; name at least one, or leave it out for the whole vocabulary"),
        (
            "[MASK]",
            {"targets": ["anna", "Wolfgang"]},
            "target 'Wolfgang' is not one token of the model but wolf ##gang; choose",
        ),
        ("[MASK]", {"targets": ""}, "target '' is not one token of the model but none; choose others"),
    ],
)
def test_impossible_fillings_are_refused(filler: EncoderModel, texts: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        filler.fill_mask(texts, **options)


def test_a_mask_beyond_the_limit_is_no_mask(filler: EncoderModel) -> None:
    with pytest.raises(InvalidOption, match=r"text 0 has no \[MASK\]"):
        filler.fill_mask(LONG + " [MASK]", truncate=True)
    with pytest.raises(ContextOverflow, match="truncate=True"):
        filler.fill_mask(LONG + " [MASK]")
    assert len(filler.fill_mask("[MASK] " + LONG, truncate=True)) == 1


def test_a_mask_token_is_known_by_its_spelling_where_the_config_names_none(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "checkpoint", encoder_config("BertForMaskedLM"), mask_token=None)
    assert len(load_encoder(folder, tmp_path / "package").fill_mask("anna [MASK]")) == 1


def test_a_tokenizer_without_a_mask_token_fills_nothing(filler: EncoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filler.tokenizer, "special_token", lambda name: None)
    match = "the tokenizer has no mask token, so there is nothing to fill; name it as mask_token in the checkpoint's tokenizer_"
    with pytest.raises(InvalidOption, match=match):
        filler.fill_mask("anna")
