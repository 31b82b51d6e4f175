"""Heads and what is made of them, live: labels, spans, answers and predictions against the pipelines of transformers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import pipeline

from edgelm.text_encoding import EncoderModel
from tests.parity.reference import quiet
from tests.runtime.encoders import CONTEXT, SENTENCES, TOKENS, encoder_config, load_encoder, write_encoder

TOLERANCE = 1e-4
AGGREGATIONS = ("none", "simple", "first", "average", "max")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "B-A-B")
ANSWERS = pytest.mark.skipif(
    Version(transformers.__version__) >= Version("5"), reason="transformers 5 has no question answering pipeline"
)

Pair = tuple[Any, EncoderModel]

ANGLED = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
# The tokenizers library gives windows after the first token types that such a tokenizer.json does not have; no such model
# is fed any.
UNTYPED = {"model_input_names": ["input_ids", "attention_mask"]}


def byte_level() -> str:
    """As RoBERTa's: spaces belong to words, offsets do not count them."""
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet()})
    tokens = [*ANGLED.values(), *letters, "in", "er", "li", "an", "Ġt", "he", "Ġthe"]
    merges = [("i", "n"), ("e", "r"), ("l", "i"), ("a", "n"), ("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:5])
    return tokenizer.to_str()


def sentencepiece() -> str:
    """As XLM-RoBERTa's: spaces belong to words, and offsets count them."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!'0123456789"
    words = ["▁the", "▁lives", "▁in", "Ber", "lin", "▁Anna", "ing", "▁is"]
    pieces = [*((token, 0.0) for token in ANGLED.values())]
    pieces += [("▁", -3.0), *((word, -2.0) for word in words), *((letter, -5.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, 3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*ANGLED.values()])
    return tokenizer.to_str()


TOKENIZERS: Mapping[str, Callable[[], str] | None] = {
    "wordpiece": None,
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
}


def build(folder: Path, task: str, config: dict[str, Any], tokenizer: str = "wordpiece") -> Pair:
    """A checkpoint as a pipeline of transformers and as our model."""
    make = TOKENIZERS[tokenizer]
    written = None if make is None else make()
    if written is not None:
        config = {**config, "vocab_size": Tokenizer.from_str(written).get_vocab_size(), "pad_token_id": 1}
    settings = {
        **({} if written is None else {**ANGLED, **UNTYPED}),
        "model_max_length": config["max_position_embeddings"],
    }
    write_encoder(folder / "checkpoint", config, 3, written, **settings)
    with quiet():
        reference = pipeline(task, str(folder / "checkpoint"), device="cpu", dtype=torch.float32)
    return reference, load_encoder(folder / "checkpoint", folder / "package")


def random_texts(count: int, words: int, seed: int) -> list[str]:
    """Texts of known and unknown words, punctuation, accents and odd spaces; none is too long."""
    rng = random.Random(seed)
    known = [token.removeprefix("##") for token in TOKENS[5:]] + [
        "Wolfgang",
        "Microsoft",
        "Zoë",
        "ÉCOLE",
        "日本",
        "Berlin",
    ]
    spaces = [" ", " ", " ", "  ", ", ", "\n", " - ", "'", "."]
    return ["".join(rng.choice(known) + rng.choice(spaces) for _ in range(rng.randint(1, words))) for _ in range(count)]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tagger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = encoder_config("BertForTokenClassification", TAGS, max_position_embeddings=150)
    return build(tmp_path_factory.mktemp("tagger"), "token-classification", config, request.param)


@pytest.fixture(scope="module", params=TOKENIZERS)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = encoder_config("BertForQuestionAnswering", max_position_embeddings=600)
    return build(tmp_path_factory.mktemp("reader"), "question-answering", config, request.param)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_entities_are_equal(tagger: Pair, aggregation: Any) -> None:
    reference, model = tagger
    texts = [*SENTENCES[:2], *SENTENCES[3:], *random_texts(40, 12, seed=1)]
    for text in texts:
        expected = reference(text, aggregation_strategy=aggregation)
        _compare_entities(model.classify_tokens(text, aggregation=aggregation), expected, text)
    assert any(model.classify_tokens(texts, aggregation=aggregation))


def test_entities_with_other_labels_left_out_are_equal(tagger: Pair) -> None:
    reference, model = tagger
    for text in random_texts(10, 12, seed=2):
        expected = reference(text, aggregation_strategy="simple", ignore_labels=["PER", "MISC"])
        _compare_entities(model.classify_tokens(text, ignore_labels=["PER", "MISC"]), expected, text)


@pytest.mark.parametrize("aggregation", AGGREGATIONS[1:])
@pytest.mark.parametrize("stride", [0, 5, 20])
def test_entities_of_a_long_text_in_windows_are_equal(tagger: Pair, aggregation: Any, stride: int) -> None:
    reference, model = tagger
    text = " ".join(random_texts(60, 12, seed=3))
    assert len(reference.tokenizer(text)["input_ids"]) > model.max_length
    expected = reference(text, aggregation_strategy=aggregation, stride=stride)
    _compare_entities(model.classify_tokens(text, aggregation=aggregation, stride=stride), expected, text)


@ANSWERS
@pytest.mark.parametrize("no_answer", [False, True])
@pytest.mark.parametrize("top_k", [1, 4])
def test_answers_are_equal(reader: Pair, top_k: int, no_answer: bool) -> None:
    reference, model = reader
    contexts = [text for text in random_texts(25, 30, seed=4) if len(text.split()) > 5]
    for question, context in zip(random_texts(len(contexts), 6, seed=5), contexts, strict=True):
        expected = reference(question=question, context=context, top_k=top_k, handle_impossible_answer=no_answer)
        _compare_answers(model.answer(question, context, top_k=top_k, no_answer=no_answer), expected, context)


@ANSWERS
@pytest.mark.parametrize(("window", "stride", "longest"), [(64, 16, 15), (64, 0, 3), (100, 40, 30)])
def test_answers_in_a_long_context_are_equal(reader: Pair, window: int, stride: int, longest: int) -> None:
    reference, model = reader
    for seed in range(6, 10):
        context, (question,) = " ".join(random_texts(20, 20, seed)), random_texts(1, 5, seed + 10)
        expected = reference(
            question=question, context=context, top_k=3, max_seq_len=window, doc_stride=stride, max_answer_len=longest,
            handle_impossible_answer=True,
        )  # fmt: skip
        options: dict[str, Any] = {"window": window, "stride": stride, "max_answer_length": longest, "no_answer": True}
        _compare_answers(model.answer(question, context, top_k=3, **options), expected, context)


@ANSWERS
def test_windows_and_strides_are_chosen_equally(reader: Pair) -> None:
    reference, model = reader
    context = " ".join(random_texts(60, 20, seed=20))
    assert len(reference.tokenizer(context)["input_ids"]) > 384
    expected = reference(question="Who lives in Berlin?", context=context, top_k=5)
    _compare_answers(model.answer("Who lives in Berlin?", context, top_k=5), expected, context)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (("bad", "good", "so so"), None),
        (("bad", "good"), "single_label_classification"),
        (("a", "b", "c"), "multi_label_classification"),
        (("score",), "regression"),
        (("score", "other"), "regression"),
        (("yes",), None),
    ],
)
@pytest.mark.parametrize(
    "texts", [SENTENCES, list(zip(SENTENCES[:3], SENTENCES[3:], strict=True))], ids=["one", "pair"]
)
def test_labels_are_equal(tmp_path: Path, labels: tuple[str, ...], problem: str | None, texts: Sequence[Any]) -> None:
    config = encoder_config("BertForSequenceClassification", labels, **({"problem_type": problem} if problem else {}))
    reference, model = build(tmp_path, "text-classification", config)
    for text, found in zip(texts, model.classify(list(texts)), strict=True):
        given = text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        expected = reference(given, top_k=None)
        assert [label.label for label in found] == [one["label"] for one in expected]
        np.testing.assert_allclose([label.score for label in found], [one["score"] for one in expected], atol=TOLERANCE)


def test_filled_masks_are_equal(tmp_path: Path) -> None:
    reference, model = build(tmp_path, "fill-mask", encoder_config("BertForMaskedLM"))
    texts = [text.rsplit(" ", 1)[0] + " [MASK]." for text in random_texts(12, 12, seed=30)]
    for text, (found,) in zip(texts, model.fill_mask(texts, top_k=7), strict=True):
        expected = reference(text, top_k=7)
        assert [(one.token_id, one.token) for one in found] == [(one["token"], one["token_str"]) for one in expected]
        assert [one.text for one in found] == [one["sequence"] for one in expected]
        np.testing.assert_allclose([one.score for one in found], [one["score"] for one in expected], atol=TOLERANCE)


def test_several_masks_and_targets_are_equal(tmp_path: Path) -> None:
    reference, model = build(tmp_path, "fill-mask", encoder_config("BertForMaskedLM"))
    text, targets = "[MASK] lives in [MASK], a city of [MASK]", ["anna", "Berlin", "##ing", "[SEP]"]
    for options in ({}, {"targets": targets}):
        for found, expected in zip(model.fill_mask(text, **options), reference(text, **options), strict=True):
            assert [one.token_id for one in found] == [one["token"] for one in expected]
            np.testing.assert_allclose([one.score for one in found], [one["score"] for one in expected], atol=TOLERANCE)


@pytest.mark.parametrize(
    "activation", [None, "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"]
)
def test_rankings_have_the_scores_of_a_cross_encoder(tmp_path: Path, activation: str | None) -> None:
    settings = (
        {} if activation is None else {"sentence_transformers": {"activation_fn": activation, "version": "5.7.0"}}
    )
    config = encoder_config("BertForSequenceClassification", ("LABEL_0",), **settings)
    reference, model = build(tmp_path, "text-classification", config)
    query, documents = "Who lives in Berlin?", [*SENTENCES, *random_texts(5, 20, seed=40)]
    batch = reference.tokenizer([query] * len(documents), documents, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        logits = reference.model(**batch).logits
    expected = (logits if activation and "Identity" in activation else torch.sigmoid(logits)).squeeze(-1).numpy()
    found = model.rerank(query, documents)
    assert [one.index for one in found] == np.argsort(-expected).tolist()
    assert [one.document for one in found] == [documents[one.index] for one in found]
    np.testing.assert_allclose([one.score for one in found], np.sort(expected)[::-1], atol=TOLERANCE)


def test_replaced_tokens_have_the_discriminator_s_probabilities(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "checkpoint", encoder_config("ElectraForPreTraining"), seed=6)
    with quiet():
        reference = transformers.ElectraForPreTraining.from_pretrained(folder).eval()
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(folder), load_encoder(folder, tmp_path / "package")
    texts = random_texts(10, 12, seed=60)
    for text, found in zip(texts, model.classify_tokens(texts), strict=True):
        batch = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            expected = torch.sigmoid(reference(**batch).logits[0, 1:-1]).numpy()
        np.testing.assert_allclose([one.score for one in found], expected, atol=TOLERANCE)
        spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"][1:-1]
        assert [(one.start, one.end) for one in found] == [tuple(span) for span in spans]


@pytest.mark.parametrize("limit", [3, 4, 5, 8, 13, CONTEXT])
@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_is_equal(tmp_path: Path, limit: int, side: str) -> None:
    folder = write_encoder(tmp_path / "checkpoint", encoder_config(), truncation_side=side)
    model = load_encoder(folder, tmp_path / "package", max_length=limit)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lone, pairs = (
        random_texts(20, 40, seed=50),
        list(zip(random_texts(20, 20, 51), random_texts(20, 20, 52), strict=True)),
    )
    for text in [*lone, *pairs]:
        (row,) = model._reader.rows([text], truncate=True)
        texts = (text,) if isinstance(text, str) else text
        expected = tokenizer(*texts, truncation=True, max_length=limit)
        assert (row.ids, row.type_ids) == (expected["input_ids"], expected["token_type_ids"])


def test_a_tokenizer_that_feeds_no_token_types_leaves_them_zero(tmp_path: Path) -> None:
    config = encoder_config("BertForSequenceClassification", ("a", "b", "c"))
    folder = write_encoder(tmp_path / "checkpoint", config, **UNTYPED)
    with quiet():
        reference = pipeline("text-classification", str(folder), device="cpu", dtype=torch.float32)
    expected = reference({"text": SENTENCES[0], "text_pair": SENTENCES[1]}, top_k=None)
    found = load_encoder(folder, tmp_path / "package").classify((SENTENCES[0], SENTENCES[1]))
    np.testing.assert_allclose([label.score for label in found], [one["score"] for one in expected], atol=TOLERANCE)


def _compare_entities(found: Sequence[Any], expected: Sequence[Any], text: str) -> None:
    spans = [(one.label, one.start, one.end, one.text) for one in found]
    assert spans == [
        (one.get("entity", one.get("entity_group")), one["start"], one["end"], text[one["start"] : one["end"]].strip())
        for one in expected
    ]
    np.testing.assert_allclose([one.score for one in found], [one["score"] for one in expected], atol=TOLERANCE)


def _compare_answers(found: Sequence[Any], expected: Any, context: str) -> None:
    listed = [expected] if isinstance(expected, dict) else expected
    assert [(one.start, one.end) for one in found] == [(one["start"], one["end"]) for one in listed]
    assert [one.text for one in found] == [one["answer"].strip() for one in listed]
    assert all(one.text == context[one.start : one.end].strip() for one in found)
    np.testing.assert_allclose([one.score for one in found], [one["score"] for one in listed], atol=TOLERANCE)
