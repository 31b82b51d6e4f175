"""EncoderModel on whole texts: embeddings, hidden states, labels, rankings; inputs of every kind, limits and bad requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, assert_type, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers

import edgelm
from edgelm import encoder_runner
from edgelm.answers import Answer
from edgelm.entities import Entity
from edgelm.errors import ContextOverflow, InvalidOption
from edgelm.labels import Label, Ranked
from edgelm.mask_filling import Prediction
from edgelm.text_encoding import EncoderModel
from tests.runtime.encoders import (
    CONTEXT,
    HIDDEN,
    SENTENCES,
    encoder_config,
    load_encoder,
    tokenizer_json,
    write_encoder,
    write_modules,
)

SAME = 1e-5  # what a batch may change about a text, in float32, where values are about 1
LONG = "anna lives in berlin " * 30


class Ask(Protocol):
    """A method that takes a text or many."""

    def __call__(self, texts: Any, **options: Any) -> Any: ...


@pytest.fixture(params=["encode", "hidden_states", "classify"])
def ask(request: pytest.FixtureRequest, embedder: EncoderModel, classifier: EncoderModel) -> Ask:
    model = classifier if request.param == "classify" else embedder
    return getattr(model, request.param)


def close(found: Any, expected: Any) -> None:
    """Equal up to what a batch may change."""
    if isinstance(found, np.ndarray):
        np.testing.assert_allclose(found, expected, rtol=0, atol=SAME)
        return
    assert [label.label for label in found] == [label.label for label in expected]
    assert [label.score for label in found] == pytest.approx([label.score for label in expected], abs=SAME)


def test_a_text_has_the_same_result_alone_and_in_any_batch(ask: Ask) -> None:
    texts = [*SENTENCES, *SENTENCES[::-1], ("Who?", "Anna lives in Berlin.")]
    alone = [ask(text) for text in texts]
    for batch_size in (1, 3, 32):
        for found, expected in zip(ask(texts, batch_size=batch_size), alone, strict=True):
            close(found, expected)


def test_one_text_gives_one_result_and_a_list_gives_a_list(ask: Ask) -> None:
    one, many = ask("anna"), ask(["anna"])
    assert len(many) == 1
    close(one, many[0])


def test_a_tuple_of_two_texts_is_one_pair(ask: Ask) -> None:
    close(ask(("who", "anna")), ask([("who", "anna")])[0])
    assert len(ask(("who", "anna", "berlin"))) == 3


def test_the_second_text_of_a_pair_has_the_second_token_type(embedder: EncoderModel) -> None:
    joined = embedder.tokenizer.encode("who anna")
    pair = [*joined[:2], 3, *joined[2:]]
    assert np.abs(embedder.hidden_states(("who", "anna")) - embedder.hidden_states(pair)).max() > 0.1


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_ids_are_used_as_they_are(ask: Ask, embedder: EncoderModel, kind: Callable[[Any], Any]) -> None:
    ids = embedder.tokenizer.encode(SENTENCES[0])
    expected = ask(SENTENCES[0])
    close(ask(kind(ids)), expected)
    close(ask([SENTENCES[1], kind(ids)])[1], expected)


def test_a_generator_of_texts_is_a_list_of_texts(ask: Ask) -> None:
    for found, expected in zip(ask(text for text in SENTENCES), ask(SENTENCES), strict=True):
        close(found, expected)


def test_an_array_of_texts_is_a_list_of_texts(ask: Ask) -> None:
    for found, expected in zip(ask(np.array(SENTENCES)), ask(SENTENCES), strict=True):
        close(found, expected)


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 4), np.int64)])
def test_no_texts_have_no_results(embedder: EncoderModel, classifier: EncoderModel, nothing: Any) -> None:
    assert embedder.encode(nothing).shape == (0, HIDDEN)
    assert embedder.hidden_states(nothing) == []
    assert classifier.classify(nothing) == []


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u3000"])
def test_a_text_of_nothing_is_what_its_special_tokens_make_of_it(embedder: EncoderModel, text: str) -> None:
    close(embedder.hidden_states(text), embedder.hidden_states([2, 3]))


def test_a_million_characters_are_cut_when_asked(ask: Ask) -> None:
    text = "anna lives in berlin " * 50_000
    close(ask(text, truncate=True), ask(text[:1000], truncate=True))
    with pytest.raises(ContextOverflow, match="text 0 has 200,002 tokens and the model reads 64"):
        ask(text)


def test_a_pair_of_long_texts_is_cut_to_halves(ask: Ask) -> None:
    pair = LONG * 200, "who works " * 5000
    close(ask(pair, truncate=True), ask((pair[0][:400], pair[1][:300]), truncate=True))


def test_a_text_beyond_the_limit_is_refused_and_the_message_says_how_to_cut_it(ask: Ask) -> None:
    message = r"text 1 has 122 tokens and the model reads 64; truncate=True \(--truncate\) cuts it there, or split it"
    with pytest.raises(ContextOverflow, match=message):
        ask(["anna", LONG])


def test_a_cut_text_keeps_its_special_tokens(embedder: EncoderModel) -> None:
    ids = embedder.tokenizer.encode(LONG)
    close(embedder.hidden_states(LONG, truncate=True), embedder.hidden_states([*ids[: CONTEXT - 1], 3]))


def test_ids_beyond_the_limit_are_never_cut(ask: Ask) -> None:
    with pytest.raises(
        ContextOverflow, match="text 0 has 70 tokens and the model reads 64; token ids are never cut, split"
    ):
        ask([5] * 70, truncate=True)


def test_a_limit_below_the_special_tokens_cannot_be_kept(embedder: EncoderModel) -> None:
    tight = edgelm.load(embedder.package.path, threads=1, max_length=2)
    assert tight.hidden_states(LONG, truncate=True).shape == (2, HIDDEN)
    message = "text 0 cannot be cut to 2 tokens: 3 special tokens belong to it; load with a larger max_length"
    with pytest.raises(ContextOverflow, match=message):
        tight.hidden_states(("who", LONG), truncate=True)


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (None, "the input is a NoneType; give text, a pair of texts as a tuple, token ids, or a list of these"),
        (7, "the input is a int; give text"),
        (np.array("anna"), "the input is a ndarray; give text"),
        (b"bytes", "the input is a bytes; give text"),
        ({"text": "a"}, "the input is a dict; give text"),
        (["a", None], "text 1 is a NoneType; give text"),
        (["a", 1.5], "text 1 is a float; give text"),
        ([["a", "b"]], "text 0 is a list; give text, a pair of texts as a tuple"),
        ([("a", 1)], "text 0 is a tuple; give text, a pair of texts as a tuple"),
        ([[1.5]], "text 0 is a list; give text"),
        ([[]], "text 0 has no tokens; give at least one character"),
        (["a", [3, -1]], "text 1 holds token ids outside 0..97, the model's vocabulary"),
        ([5, 98], "text 0 holds token ids outside 0..97"),
        (
            ["a", "b\ud800"],
            r"text 1: the text holds half a surrogate pair \(U\+D800\) at position 1; decode your input",
        ),
        (("a", "\udfff"), r"text 0: the text holds half a surrogate pair \(U\+DFFF\) at position 0"),
    ],
)
def test_inputs_that_are_no_texts_are_refused(ask: Ask, texts: Any, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        ask(texts)


@pytest.mark.parametrize(
    ("size", "match"), [(0, "batch_size 0 is below 1"), (2.5, "batch_size 2.5 is no whole number")]
)
def test_impossible_batch_sizes_are_refused(ask: Ask, size: Any, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        ask(SENTENCES, batch_size=size)
    with pytest.raises(InvalidOption, match=match):
        ask([], batch_size=size)


def test_an_embedding_is_the_mean_of_the_hidden_states(embedder: EncoderModel) -> None:
    expected = [states.mean(0) for states in embedder.hidden_states(SENTENCES)]
    np.testing.assert_allclose(embedder.encode(SENTENCES), expected, rtol=0, atol=SAME)
    assert embedder.encode(SENTENCES).dtype == np.float32


@pytest.mark.parametrize("spelling", ["normalize", "normalize_embeddings"])
def test_embeddings_are_normalized_when_asked(embedder: EncoderModel, spelling: str) -> None:
    plain = embedder.encode(SENTENCES)
    on, off = cast("dict[str, Any]", {spelling: True}), cast("dict[str, Any]", {spelling: False})
    found = embedder.encode(SENTENCES, **on)
    np.testing.assert_allclose(found, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=0, atol=SAME)
    np.testing.assert_array_equal(embedder.encode(SENTENCES, **off), plain)


@pytest.mark.parametrize("spelling", ["dimensions", "truncate_dim"])
def test_embeddings_are_cut_and_then_normalized(embedder: EncoderModel, spelling: str) -> None:
    plain, cut = embedder.encode(SENTENCES)[:, :5], cast("dict[str, Any]", {spelling: 5})
    np.testing.assert_array_equal(embedder.encode(SENTENCES, **cut), plain)
    found = embedder.encode(SENTENCES, normalize=True, **cut)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert embedder.encode("anna", **cut).shape == (5,)


@pytest.mark.parametrize(
    ("size", "match"),
    [(0, "dimensions 0 is below 1"), (33, "dimensions 33 is outside 1..32, the model's own"), ("5", "no whole number")],
)
def test_impossible_dimensions_are_refused(embedder: EncoderModel, size: Any, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        embedder.encode(SENTENCES, dimensions=size)


def test_cut_embeddings_of_a_normalizing_checkpoint_keep_length_1(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "checkpoint", encoder_config())
    write_modules(folder, Transformer="", Pooling="1_Pooling", Normalize="2_Normalize")
    model = load_encoder(folder, tmp_path / "package")
    assert model.facts.normalized
    np.testing.assert_allclose(np.linalg.norm(model.encode(SENTENCES), axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.encode(SENTENCES, dimensions=7), axis=1), 1, rtol=1e-5)
    raw = model.encode(SENTENCES, dimensions=7, normalize=False)
    np.testing.assert_array_equal(raw, model.encode(SENTENCES)[:, :7])


def test_a_prompt_stands_before_each_text(embedder: EncoderModel) -> None:
    expected = embedder.encode(["who is anna", "who is maria"])
    close(embedder.encode(["anna", "maria"], prompt="who is "), expected)
    close(embedder.encode(["anna", "maria"], prompt_name="query"), expected)
    close(embedder.encode(["anna", "maria"], prompt="who is ", prompt_name="passage"), expected)
    close(embedder.encode_query(["anna", "maria"]), expected)
    close(embedder.encode_document("anna"), embedder.encode("the river: anna"))
    close(embedder.encode_query("anna", prompt="the "), embedder.encode("the anna"))
    close(embedder.encode_query("anna", prompt_name="passage"), embedder.encode("the river: anna"))
    close(embedder.encode("anna"), embedder.encode("anna", prompt=""))


def test_pairs_and_ids_go_without_a_prompt(embedder: EncoderModel) -> None:
    inputs = [("who", "anna"), [2, 5, 3]]
    close(embedder.encode(inputs, prompt="who is "), embedder.encode(inputs))


def test_an_unknown_prompt_is_refused(embedder: EncoderModel) -> None:
    with pytest.raises(InvalidOption, match=r"the model has no prompt 'question' \(it has passage, query\)"):
        embedder.encode("anna", prompt_name="question")


def test_the_default_prompt_is_used_unless_another_is_asked_for(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "checkpoint", encoder_config())
    write_modules(folder, Transformer="", Pooling="1_Pooling")
    settings = '{"prompts": {"query": "who is "}, "default_prompt_name": "query"}'
    (folder / "config_sentence_transformers.json").write_text(settings)
    model = load_encoder(folder, tmp_path / "package")
    close(model.encode("anna"), model.encode("who is anna", prompt=""))
    close(model.encode_document("anna"), model.encode("anna", prompt=""))  # it has no prompt of its own


def test_sentence_transformers_spelling_is_understood(embedder: EncoderModel) -> None:
    found = embedder.encode(
        SENTENCES, batch_size=2, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
    )
    close(found, embedder.encode(SENTENCES, normalize=True))
    assert embedder.get_sentence_embedding_dimension() == HIDDEN
    assert embedder.similarity(found, found[0]).shape == (len(SENTENCES), 1)
    with pytest.raises(InvalidOption, match="encode has no option 'normalise_embeddings'"):
        embedder.encode(SENTENCES, normalise_embeddings=True)


@pytest.mark.parametrize(("shown", "labels"), [(False, []), (True, ["Encoding"]), (None, ["Encoding"])])
def test_a_progress_bar_is_opened_unless_it_is_switched_off(
    embedder: EncoderModel, monkeypatch: pytest.MonkeyPatch, shown: bool | None, labels: list[str]
) -> None:
    opened: list[str] = []
    original = encoder_runner.progress

    def record(total: float | None, label: str, unit: str = "") -> Any:
        opened.append(label)
        assert (total, unit) == (len(SENTENCES), "text")
        return original(total, label, unit)

    monkeypatch.setattr(encoder_runner, "progress", record)
    embedder.encode(SENTENCES, show_progress_bar=shown)
    assert opened == labels


def test_nothing_is_written_to_a_pipe(embedder: EncoderModel, capfd: pytest.CaptureFixture[str]) -> None:
    embedder.encode(SENTENCES)
    assert capfd.readouterr() == ("", "")


def test_texts_are_brought_to_lower_case_where_the_checkpoint_wants_it(tmp_path: Path) -> None:
    cased = Backend.from_str(tokenizer_json())
    cased.normalizer = normalizers.BertNormalizer(lowercase=False)
    folder = write_encoder(tmp_path / "checkpoint", encoder_config(), tokenizer=cased.to_str())
    write_modules(folder, Transformer="", Pooling="1_Pooling")
    plain = load_encoder(folder, tmp_path / "plain")
    assert np.abs(plain.encode("ANNA") - plain.encode("anna")).max() > 0.1
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": true}')
    lower = load_encoder(folder, tmp_path / "lower")
    close(lower.encode(["ANNA", ("Who", "MARIA")]), plain.encode(["anna", ("who", "maria")]))


def test_labels_come_best_first(classifier: EncoderModel) -> None:
    found = classifier.classify(SENTENCES)
    for labels in found:
        assert {label.label for label in labels} == {"bad", "so so", "good"}
        assert sum(label.score for label in labels) == pytest.approx(1)
        assert [label.score for label in labels] == sorted((label.score for label in labels), reverse=True)
    assert [labels[:2] for labels in found] == classifier.classify(SENTENCES, top_k=2)
    assert isinstance(classifier.classify("anna")[0], Label)


def test_a_ranking_has_the_scores_of_the_pairs(reranker: EncoderModel) -> None:
    found = reranker.rerank("who lives in berlin", SENTENCES)
    scores = [labels[0].score for labels in reranker.classify([("who lives in berlin", text) for text in SENTENCES])]
    order = sorted(range(len(SENTENCES)), key=lambda i: -scores[i])
    assert [one.index for one in found] == order
    assert [one.document for one in found] == [SENTENCES[i] for i in order]
    assert [one.score for one in found] == pytest.approx([scores[i] for i in order], abs=SAME)
    assert all(0 < one.score < 1 for one in found)
    assert reranker.rerank("who", SENTENCES, top_k=2) == reranker.rerank("who", SENTENCES)[:2]
    assert isinstance(found[0], Ranked)
    assert reranker.rerank("who", []) == []


def test_a_ranking_cuts_pairs_when_asked(reranker: EncoderModel) -> None:
    with pytest.raises(ContextOverflow, match="text 1 has .* truncate=True"):
        reranker.rerank("who", ["anna", LONG])
    assert len(reranker.rerank("who", ["anna", LONG], truncate=True)) == 2


@pytest.mark.parametrize(
    ("query", "documents"), [("who", "anna"), (["who"], ["anna"]), ("who", [[5, 6]]), ("who", [None]), (None, ["anna"])]
)
def test_a_ranking_takes_one_query_and_texts(reranker: EncoderModel, query: Any, documents: Any) -> None:
    with pytest.raises(InvalidOption, match="rerank takes one query and a list of documents, all of them texts"):
        reranker.rerank(query, documents)


def test_a_classifier_with_several_labels_ranks_nothing(classifier: EncoderModel) -> None:
    with pytest.raises(InvalidOption, match="has 3 labels and a reranker has one; classify takes pairs of texts too"):
        classifier.rerank("who", SENTENCES)


@pytest.mark.parametrize(("top_k", "match"), [(0, "top_k 0 is below 1"), (1.5, "top_k 1.5 is no whole number")])
def test_impossible_top_k_are_refused(classifier: EncoderModel, reranker: EncoderModel, top_k: Any, match: str) -> None:
    with pytest.raises(InvalidOption, match=match):
        classifier.classify(SENTENCES, top_k=top_k)
    with pytest.raises(InvalidOption, match=match):
        reranker.rerank("who", SENTENCES, top_k=top_k)


@pytest.mark.parametrize(
    ("method", "arguments", "wanted"),
    [
        ("encode", ("anna",), "embedding"),
        ("encode_query", ("anna",), "embedding"),
        ("get_sentence_embedding_dimension", (), "embedding"),
        ("rerank", ("who", ["anna"]), "reranking"),
        ("classify", ("anna",), "sequence-classification"),
        ("answer", ("who", "anna"), "question-answering"),
        ("fill_mask", ("[MASK]",), "fill-mask"),
    ],
)
def test_a_task_that_the_package_is_not_for_is_refused(
    tagger: EncoderModel, method: str, arguments: tuple[Any, ...], wanted: str
) -> None:
    match = (
        f"was exported for token-classification, not for {wanted}; export the checkpoint again with --task {wanted}, if"
    )
    with pytest.raises(InvalidOption, match=match):
        getattr(tagger, method)(*arguments)


def test_every_package_gives_hidden_states(tagger: EncoderModel, filler: EncoderModel) -> None:
    for model in (tagger, filler):
        assert [states.shape[1] for states in model.hidden_states(SENTENCES)] == [HIDDEN] * len(SENTENCES)


def test_no_token_types_reach_a_model_whose_tokenizer_feeds_none(tmp_path: Path) -> None:
    config = encoder_config()
    typed = load_encoder(write_encoder(tmp_path / "a", config), tmp_path / "pa")
    untyped = load_encoder(write_encoder(tmp_path / "b", config, model_input_names=["input_ids"]), tmp_path / "pb")
    pair = ("who", "anna")
    ids = [2, *typed.tokenizer.encode("who", add_special_tokens=False), 3]
    ids += [*typed.tokenizer.encode("anna", add_special_tokens=False), 3]
    close(untyped.hidden_states(pair), typed.hidden_states(ids))
    assert np.abs(untyped.hidden_states(pair) - typed.hidden_states(pair)).max() > 0.1


def test_type_checkers_know_what_comes_back(
    embedder: EncoderModel, classifier: EncoderModel, tagger: EncoderModel, reader: EncoderModel, filler: EncoderModel
) -> None:
    Array = NDArray[np.float32]
    assert_type(embedder.encode("a"), Array)
    assert_type(embedder.hidden_states("a"), Array)
    assert_type(embedder.hidden_states(("a", "b")), Array)
    assert_type(embedder.hidden_states([2, 3]), Array)
    assert_type(embedder.hidden_states(np.array([2, 3])), Array)
    assert_type(embedder.hidden_states(["a", ("a", "b"), [2, 3]]), list[Array])
    assert_type(classifier.classify("a"), list[Label])
    assert_type(classifier.classify(["a"]), list[list[Label]])
    assert_type(tagger.classify_tokens([2, 3]), list[Entity])
    assert_type(tagger.classify_tokens([[2, 3]], aggregation="max"), list[list[Entity]])
    assert_type(reader.answer("a", "a"), list[Answer])
    assert_type(reader.answer("a", ["a"]), list[list[Answer]])
    assert_type(reader.answer(["a"], "a"), list[list[Answer]])
    assert_type(filler.fill_mask("[MASK]"), list[list[Prediction]])
    assert_type(filler.fill_mask(["[MASK]"]), list[list[list[Prediction]]])
