"""What encoders ask of a tokenizer: batches, special tokens by name, spans of ids."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from edgelm.errors import InvalidOption
from edgelm.tokenizer import Tokenizer
from tests.runtime.encoders import SENTENCES, SPECIAL, TOKENIZER_CONFIG, tokenizer_json


def make(**config: Any) -> Tokenizer:
    return Tokenizer(Backend.from_str(tokenizer_json()), config)


def test_a_batch_has_the_ids_of_each_text_with_and_without_offsets() -> None:
    tokenizer = make(**TOKENIZER_CONFIG)
    for offsets in (True, False):
        found = tokenizer.encode_batch(SENTENCES, offsets=offsets)
        assert [one.ids for one in found] == [tokenizer.encode(text) for text in SENTENCES]
    assert tokenizer.encode_batch(["anna lives"])[0].offsets[1:3] == [(0, 4), (5, 10)]
    assert tokenizer.encode_batch([("anna", "lives")], offsets=False)[0].type_ids == [0, 0, 0, 1, 1]
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("texts", [["anna", "b\ud800"], [("anna", "b\ud800")], [("b\udfff", "anna")]])
def test_half_a_surrogate_pair_is_found_in_a_batch(texts: Any) -> None:
    with pytest.raises(
        InvalidOption, match=r"the text holds half a surrogate pair \(U\+D[8F].. *\) at position 1; decode"
    ):
        make().encode_batch(texts)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"mask_token": "[MASK]"}, "[MASK]"),
        ({"mask_token": {"content": "[SEP]"}}, "[SEP]"),
        ({}, "[MASK]"),
        ({"mask_token": "<none such>"}, "[MASK]"),
    ],
)
def test_a_special_token_is_the_named_one_or_goes_by_its_usual_spelling(config: Any, expected: str) -> None:
    assert make(**config).special_token("mask_token") == expected


def test_a_plain_token_with_the_usual_spelling_is_no_special_token() -> None:
    backend = Backend(models.WordLevel({"[UNK]": 0, "[MASK]": 1}, unk_token="[UNK]"))
    assert Tokenizer(backend, {}).special_token("mask_token") is None
    assert Tokenizer(backend, {}).special_token("no_such_token") is None


def test_special_ids_are_those_of_special_tokens() -> None:
    assert make().special_ids == frozenset(range(len(SPECIAL)))
    assert make().token(2) == "[CLS]"
    assert make().token(10_000) is None


def test_the_config_says_whether_there_are_token_types_and_where_texts_are_cut() -> None:
    assert make().has_token_types
    assert not make(model_input_names=["input_ids", "attention_mask"]).has_token_types
    assert make(model_input_names=["input_ids", "token_type_ids"]).has_token_types
    assert make(truncation_side="left").truncates_left
    assert not make().truncates_left
    assert make().subword_prefix == "##"


@pytest.mark.parametrize("text", ["wolfgang lives in berlin, at the river!", "anna", "walking by  the river . "])
def test_spans_of_ids_are_where_their_tokens_stand(text: str) -> None:
    tokenizer = make(**TOKENIZER_CONFIG)
    ids = tokenizer.encode(text)
    decoded, spans = tokenizer.spans(ids)
    assert decoded == tokenizer.decode(ids)
    assert [decoded[start:end] for start, end in spans] == [
        "" if token in tokenizer.special_ids else (tokenizer.token(token) or "").removeprefix("##") for token in ids
    ]


def test_spans_of_bytes_end_where_their_character_ends() -> None:
    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(backend, {})
    text, spans = tokenizer.spans(tokenizer.encode("aé b"))
    assert text == "aé b"
    assert [text[start:end] for start, end in spans] == ["a", "", "é", "", "b"]
    assert tokenizer.spans([]) == ("", [])
