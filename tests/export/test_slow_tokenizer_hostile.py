"""Slow tokenizers whose files lie: each is refused with a message that acts, or gives a tokenizer that works."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from edgelm.errors import CorruptFile, UnsupportedConfig
from edgelm_export.checkpoint import sentencepiece_model
from edgelm_export.checkpoint.sentencepiece_model import Algorithm, read_sentencepiece
from edgelm_export.checkpoint.slow_tokenizer import convert
from edgelm_export.checkpoint.tokenizer_parts import is_charsmap
from tests.export.slow_files import (
    ALPHABET,
    CHARSMAP,
    FOLDER,
    backend,
    message,
    number,
    pairs,
    piece_bytes,
    scored,
    sentencepiece_bytes,
    settings,
    specials,
    unigram,
    varint,
    words,
)

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the")
GPT2 = (*ALPHABET, "he", "<|endoftext|>")
UNKNOWN = piece_bytes(b"<unk>", 0.0, 2)


def changed(files: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    return {**files, name: content}


WORDS, PAIRS = words(*BERT), pairs(GPT2, ["h e"])
T5 = {"spiece.model": unigram("<pad>", "</s>", "<unk>")}


@pytest.mark.parametrize(
    ("model_type", "files", "message_words"),
    [
        ("bert", {}, r"vocab\.txt: is missing, and the tokenizer needs it \(of its files there is nothing\)"),
        ("bert", PAIRS, r"vocab\.txt: is missing.* there is vocab\.json, merges\.txt\); download the folder"),
        ("bert", {"vocab.txt": b""}, r"vocab\.txt: is empty"),
        ("bert", {"vocab.txt": b"[UNK]\n\xff\xfe\n"}, r"vocab\.txt: is not UTF-8 text at byte 6"),
        ("bert", words(*BERT, "a", "the"), r"vocab\.txt: lists 'the' twice, at lines 6 and 8"),
        ("bert", words("[CLS]", "[SEP]"), r"vocab\.txt: lacks the unknown token '\[UNK\]'"),
        ("gpt2", changed(PAIRS, "vocab.json", b"{}"), r"vocab\.json: is empty"),
        ("gpt2", changed(PAIRS, "vocab.json", b"[]"), r"vocab\.json: holds a JSON list"),
        ("gpt2", changed(PAIRS, "vocab.json", b"{"), r"vocab\.json: invalid JSON at line 1"),
        ("gpt2", changed(PAIRS, "vocab.json", b'{"a": 0, "b": 2}'), r"has 2 tokens and none of them has the id 1"),
        ("gpt2", changed(PAIRS, "vocab.json", b'{"a": 0, "b": 0}'), r"has 2 tokens and none of them has the id 1"),
        ("gpt2", changed(PAIRS, "vocab.json", b'{"a": 0, "b": -1}'), r"none of them has the id 1"),
        ("gpt2", changed(PAIRS, "vocab.json", b'{"a": 0, "b": true}'), r"gives 'b' the id 'True', which is no whole"),
        ("gpt2", changed(PAIRS, "vocab.json", b'{"a": 0, "a": 1}'), r"vocab\.json: lists 'a' twice"),
        ("gpt2", changed(PAIRS, "vocab.json", b'{"\\ud800": 0}'), r"holds '\\ud800', which is no Unicode text"),
        ("gpt2", changed(PAIRS, "merges.txt", b"h q"), r"merges\.txt: holds 'h q' at 0, which does not join two tokens"),
        ("gpt2", changed(PAIRS, "merges.txt", b"h e\nhe"), r"merges\.txt: holds 'he' at 1, which does not join"),
        ("gpt2", changed(PAIRS, "merges.txt", b"h e\r\n\nh e\n"), r"merges\.txt: lists 'h e' twice"),
        ("gpt2", changed(PAIRS, "merges.txt", b"\xff"), r"merges\.txt: is not UTF-8 text at byte 0"),
        ("gpt2", {"vocab.json": PAIRS["vocab.json"]}, r"merges\.txt: is missing"),
        ("gpt2", changed(PAIRS, "merges.txt", b"version https://git-lfs"), "is only a Git LFS pointer"),
        ("t5", {}, r"spiece\.model: is missing"),
        ("t5", {"spiece.model": b""}, r"spiece\.model: holds no pieces, so it is no SentencePiece model"),
        ("t5", {"spiece.model": b"version https://git-lfs"}, "is only a Git LFS pointer"),
        ("bert", {**WORDS, **settings(do_lower_case="no")}, r"tokenizer_config\.json: do_lower_case is str instead of"),
        ("bert", {**WORDS, **settings(strip_accents=1)}, r"strip_accents is int instead of bool"),
        ("bert", {**WORDS, **settings(tokenizer_class=7)}, r"tokenizer_class is int instead of str"),
        ("bert", {**WORDS, "tokenizer_config.json": b"\xff"}, r"tokenizer_config\.json: its JSON is not UTF-8"),
        ("bert", {**WORDS, "special_tokens_map.json": b"7"}, r"special_tokens_map\.json: holds a JSON int"),
        ("bert", {**WORDS, "added_tokens.json": b"7"}, r"added_tokens\.json: holds a JSON int"),
        ("bert", {**WORDS, "added_tokens.json": b'{"x": "6"}'}, r"added_tokens\.json: gives the added token 'x' no id"),
        ("bert", {**WORDS, "added_tokens.json": b'{"x": -6}'}, r"gives the added token 'x' no id"),
        ("bert", {**WORDS, "added_tokens.json": b'{"x": 7}'}, r"gives 'x' the id 7, but in the vocabulary it is 6"),
        ("bert", {**WORDS, "added_tokens.json": b'{"the": 6}'}, r"gives 'the' the id 6, but in the vocabulary it is 5"),
        ("bert", {**WORDS, **settings(added_tokens_decoder=[1])}, "added_tokens_decoder is no object"),
        ("bert", {**WORDS, **settings(added_tokens_decoder={"x": "y"})}, "gives the added token 'x' no id"),
        ("bert", {**WORDS, **settings(added_tokens_decoder={"9" * 99: "y"})}, "gives the added token '9+' no id"),
        ("bert", {**WORDS, **settings(added_tokens_decoder={"6": {"content": 7}})}, "holds a token that is no text"),
        ("bert", {**WORDS, **settings(cls_token={"content": [7]})}, "cls_token holds a token that is no text"),
        ("bert", {**WORDS, **settings(extra_special_tokens="x")}, "extra_special_tokens is neither a list nor an"),
        ("t5", {**T5, **settings(extra_ids=-1)}, r"tokenizer_config\.json: extra_ids is -1"),
        ("t5", {**T5, **settings(extra_ids=10**9)}, r"extra_ids is 1000000000"),
        ("xlm-roberta", {"spm.model": sentencepiece_bytes(specials("<unk>"))}, "holds 1 pieces, and the first 3 are"),
        (
            "camembert",
            {"spm.model": sentencepiece_bytes([*specials("<unk>"), *scored("<pad>")])},
            "the SentencePiece model and the special tokens both hold '<pad>'",
        ),
        (
            "llama",
            {"tokenizer.model": sentencepiece_bytes([*specials("<unk>"), *scored("x" * 1025)], Algorithm.BPE)},
            "tokenizer.model: holds a piece of 1,025 characters",
        ),
    ],
)  # fmt: skip
def test_false_files_are_refused(model_type: str, files: dict[str, bytes], message_words: str) -> None:
    if message_words == "CLS.*":  # tokens the class puts around a text are appended where the embedding has room
        with pytest.raises(
            CorruptFile, match=r"checkpoint: cls_token '\[CLS\]' is not in the vocabulary, and this .* name the"
        ):
            convert(FOLDER, files, {"model_type": model_type, "vocab_size": 2})
        return
    with pytest.raises(CorruptFile, match=rf"^checkpoint.*{message_words}"):
        backend(model_type, files)


@pytest.mark.parametrize(
    ("data", "message_words"),
    [
        (UNKNOWN[:-1], "says that field 1 has 14 bytes, but only 13 follow"),
        (message(1, b"", 1 << 62), "says that field 1 has 4,611,686,018,427,387,904 bytes, but only 0 follow"),
        (message(1, message(1, b"a", 99)), "says that field 1 has 99 bytes, but only 1 follow"),
        (b"\x80" * 11, "ends within a number or has one of more than ten bytes"),
        (b"\x0a\x80", "ends within a number"),
        (b"\x0b", r"is no SentencePiece model \(field 1 is of kind 3\)"),
        (b"{}", r"is no SentencePiece model \(field 15 is of kind 3\)"),
        (number(1, 5), r"is no SentencePiece model \(a number where bytes belong\)"),
        (UNKNOWN + message(2, message(3, b"1")), r"is no SentencePiece model \(bytes where a number belongs\)"),
        (UNKNOWN + piece_bytes(b""), "holds an empty piece at 1"),
        (UNKNOWN + piece_bytes(b"\xff"), "holds at 1 a piece that is no UTF-8 text"),
        (UNKNOWN + piece_bytes(b"a") * 2, "lists the piece 'a' twice, as 1 and 2"),
        (UNKNOWN + piece_bytes(b"a", kind=9), "gives piece 1 the unknown type 9"),
        (UNKNOWN + piece_bytes(b"a", float("nan")), "gives piece 1 the score nan"),
        (UNKNOWN + piece_bytes(b"a", float("-inf")), "gives piece 1 the score -inf"),
        (UNKNOWN + message(1, message(1, b"a") + message(2, b"123")), "has no 32-bit score at piece 1"),
        (piece_bytes(b"a"), "has 0 unknown pieces instead of one"),
        (UNKNOWN + piece_bytes(b"a", kind=2), "has 2 unknown pieces instead of one"),
        (UNKNOWN + message(2, number(3, 9)), "names the unknown model_type 9"),
        (UNKNOWN + message(3, message(2, b"abc")), "has a precompiled_charsmap that is no normalization table"),
    ],
)
def test_false_sentencepiece_models_are_refused(data: bytes, message_words: str) -> None:
    with pytest.raises(CorruptFile, match=rf"^spm\.model: {message_words}.*download it again$"):
        read_sentencepiece(Path("spm.model"), data)


def test_a_sentencepiece_model_has_a_largest_number_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece_model, "_MAX_PIECES", 1)
    with pytest.raises(CorruptFile, match="holds more than the 1 pieces that edgelm reads"):
        read_sentencepiece(Path("spm.model"), UNKNOWN + piece_bytes(b"a"))


def test_fields_of_newer_models_are_stepped_over() -> None:
    newer = number(77, 5) + message(78, b"abc") + varint(79 << 3 | 1) + bytes(8) + varint(80 << 3 | 5) + bytes(4)
    model = read_sentencepiece(Path("spm.model"), newer + UNKNOWN + message(2, newer) + message(3, newer))
    assert (model.pieces, model.algorithm, model.dummy_prefix) == (("<unk>",), Algorithm.UNIGRAM, True)


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "BertweetTokenizerFast", "\x1b[31m"])
def test_an_unknown_class_is_refused_with_the_known_ones(name: str) -> None:
    known = r"is not among those that can be converted: BertTokenizer, .*BlenderbotSmallTokenizer\. Save the tokenizer in its fast"
    with pytest.raises(UnsupportedConfig, match=rf"its tokenizer class '.*' for model type 'bert' {known}") as caught:
        backend("bert", {**WORDS, **settings(tokenizer_class=name)})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("model_type", ["resnet", None, 7])
def test_an_unknown_model_type_is_refused(model_type: Any) -> None:
    with pytest.raises(
        UnsupportedConfig, match=r"its tokenizer, without a class, for model type '(resnet|None|7)' is not"
    ):
        convert(FOLDER, WORDS, {"model_type": model_type})


def test_tokens_around_a_text_must_fit_the_embedding() -> None:
    files = words("[UNK]", "[SEP]")
    assert backend("bert", files).encode("x").ids == [3, 0, 1]  # appended, after [PAD] and as transformers 5 does
    with pytest.raises(
        CorruptFile, match=r"checkpoint: cls_token '\[CLS\]' is not in the vocabulary, and this .* name the"
    ):
        convert(FOLDER, files, {"model_type": "bert", "vocab_size": 2})


def test_a_token_that_the_class_needs_cannot_be_taken_away() -> None:
    with pytest.raises(
        UnsupportedConfig,
        match=r"tokenizer_config\.json: unk_token is null, and this tokenizer class needs one; name it",
    ):
        backend("bert", {**WORDS, **settings(unk_token=None)})
    with pytest.raises(CorruptFile, match="checkpoint: there is no cls_token, and this tokenizer class puts it around"):
        backend("bert", {**WORDS, **settings(cls_token=None)})


def test_a_model_of_the_other_kind_is_refused() -> None:
    words_ = "its SentencePiece model is of the kind {}, and this tokenizer class goes with {}; name the right"
    with pytest.raises(UnsupportedConfig, match=words_.format("BPE", "UNIGRAM")):
        backend("t5", {"spiece.model": unigram("<unk>", algorithm=Algorithm.BPE)})
    with pytest.raises(UnsupportedConfig, match=words_.format("UNIGRAM", "BPE")):
        backend("llama", {"tokenizer.model": unigram("<unk>")})


# SentencePiece's normalization table: the library panics at a false one, some only when a text reaches the false part.


def changed_unit(position: int, value: int) -> bytes:
    table = bytearray(CHARSMAP)
    struct.pack_into("<I", table, 4 + 4 * position, value)
    return bytes(table)


def test_the_table_of_a_model_is_one() -> None:
    assert is_charsmap(CHARSMAP)


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\0\0\0\0text",
        CHARSMAP[:1028],
        CHARSMAP + b"\xff",
        struct.pack("<I", 1 << 31) + CHARSMAP[4:],
        struct.pack("<I", 1020) + CHARSMAP[4:],
        changed_unit(0, 0x3FFFFF << 10),
        changed_unit(0, 1 << 31 | 1 << 20),
        changed_unit(7, 0x3FFFFF << 10 | 1 << 9 | 7),
    ],
)
def test_false_tables_are_told_apart(table: bytes) -> None:
    assert not is_charsmap(table)


def test_a_value_past_the_replacements_is_found() -> None:
    units = struct.unpack_from("<256I", CHARSMAP, 4)
    values = [i for i, unit in enumerate(units) if unit >= 1 << 31]
    assert values
    assert not any(is_charsmap(changed_unit(i, 1 << 31 | 0x7FFFFF)) for i in values)
