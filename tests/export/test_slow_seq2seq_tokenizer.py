"""Slow tokenizers of encoder-decoders, so small that every id below was worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from edgelm.errors import CorruptFile, UnsupportedConfig
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.checkpoint.sentencepiece_model import Algorithm
from edgelm_export.checkpoint.slow_tokenizer import convert
from tests.export.builders import write_hub_folder
from tests.export.slow_files import (
    ALPHABET,
    CHARSMAP,
    FOLDER,
    SPACE,
    backend,
    ids,
    pairs,
    scored,
    sentencepiece,
    sentencepiece_bytes,
    settings,
    specials,
    unigram,
)

FAIRSEQ = sentencepiece("sentencepiece.bpe.model", "<unk>", "<s>", "</s>", charsmap=CHARSMAP)
# 0..3 <s> <pad> </s> <unk>, then the pieces: a space 4, the 5, a 6, b 7, ... 8, fi 9, 10, e 11, quotation mark 12.
END = 13


def vocabulary(*tokens: str) -> bytes:
    return json.dumps({token: i for i, token in enumerate(tokens)}).encode()


# mBART, NLLB


def test_mbart_puts_the_source_language_after_the_end() -> None:
    assert ids("mbart", FAIRSEQ, "the a\u2026") == [5, 6, 8, 2, END + 3]  # en_XX is the fourth of its languages
    assert ids("mbart", {**FAIRSEQ, **settings(src_lang="zh_CN")}, "the") == [5, 2, END + 24]
    assert ids("mbart", FAIRSEQ, "the <mask> ar_AR") == [5, END + 25, END, 2, END + 3]
    assert ids("mbart", FAIRSEQ, "the", "a") == [5, 6, 2, END + 3]


def test_mbart50_puts_it_first_and_has_more_of_them() -> None:
    files = {**FAIRSEQ, **settings(tokenizer_class="MBart50Tokenizer", src_lang="sl_SI")}
    assert ids("mbart", files, "the<mask>") == [END + 51, 5, END + 52, 2]
    assert ids("mbart", files, "the", "a") == [END + 51, 5, 6, 2]


def test_nllb_has_its_languages_in_the_order_of_the_trained_models() -> None:
    files = {**FAIRSEQ, **settings(tokenizer_class="NllbTokenizer")}
    assert ids("m2m_100", files, "the ace_Arab zul_Latn<mask>") == [END + 46, 5, END, END + 201, END + 202, 2]
    older = {**files, **settings(tokenizer_class="NllbTokenizer", legacy_behaviour=True)}
    assert ids("m2m_100", older, "the") == [5, 2, END + 46]
    assert ids("m2m_100", older, "the", "a") == [5, 6, 2, END + 46]


def test_nllb_takes_the_languages_that_its_files_list() -> None:
    listed = {"tokenizer_class": "NllbTokenizer", "src_lang": "two_Latn"}
    older = settings(**listed, additional_special_tokens=["one_Latn", "two_Latn", "<mask>"])
    assert ids("m2m_100", {**FAIRSEQ, **older}, "the<mask>") == [END + 1, 5, END + 2, 2]
    declared = {str(END): "two_Latn", str(END + 1): "<mask>", str(END + 2): "one_Latn"}
    newer = settings(**listed, added_tokens_decoder={i: {"content": text} for i, text in declared.items()})
    assert ids("m2m_100", {**FAIRSEQ, **newer}, "the<mask>one_Latn") == [END, 5, END + 1, END + 2, 2]


def test_a_model_that_merges_by_score_serves_as_well() -> None:
    pieces = [*specials("<unk>", "<s>", "</s>"), *scored(SPACE, "t", "h", "e", "he", "the", f"{SPACE}the")]
    files = {"sentencepiece.bpe.model": sentencepiece_bytes(pieces, Algorithm.BPE)}
    files |= settings(tokenizer_class="NllbTokenizer")
    tokenizer = backend("m2m_100", files)
    assert tokenizer.encode("the he  \u4f60\u597d", add_special_tokens=False).ids == [10, 4, 8, 4, 3]
    assert tokenizer.decode([10, 4, 8]) == "the he"


def test_a_language_that_is_no_token_is_refused() -> None:
    with pytest.raises(
        CorruptFile, match=r"^checkpoint: src_lang 'xx_XX' is not in the vocabulary, .* in tokenizer_config\.json$"
    ):
        backend("mbart", {**FAIRSEQ, **settings(src_lang="xx_XX")})


# M2M-100


def m2m(**given: Any) -> dict[str, bytes]:
    known = ("<s>", "<pad>", "</s>", "<unk>", f"{SPACE}the", SPACE, "b", "madeup")
    return {**FAIRSEQ, "vocab.json": vocabulary(*known), **settings(**given)}


def test_m2m_has_the_ids_of_its_vocabulary_and_its_languages_after_it() -> None:
    assert ids("m2m_100", m2m(), "the b __af__") == [8 + 18, 4, 5, 6, 8, 2]  # en is the 19th of its languages
    assert ids("m2m_100", m2m(language_codes="wmt21", src_lang="de"), "the") == [8 + 7, 4, 2]
    with pytest.raises(CorruptFile, match=r"tokenizer_config\.json: language_codes is 'x' instead of m2m100 or wmt21"):
        backend("m2m_100", m2m(language_codes="x"))


def test_what_the_sentencepiece_model_cannot_give_is_never_looked_for() -> None:
    tokenizer = backend("m2m_100", m2m())
    assert tokenizer.encode("madeup").ids == [8 + 18, 5, 3, 2]
    assert tokenizer.decode([4, 7]) == "themadeup"


# Marian: the source knows the usual pieces, the target others.

JOINT = ("</s>", "<unk>", f"{SPACE}le", f"{SPACE}the", "b", SPACE, "\u00df", "le", f"{SPACE}a", ">>fra<<", "<pad>")
TARGET = sentencepiece_bytes([*specials("<unk>", "<s>", "</s>"), *scored(SPACE, f"{SPACE}le", "le", "\u00df")])
MARIAN = {**sentencepiece("source.spm", "<unk>", "<s>", "</s>"), "target.spm": TARGET, "vocab.json": vocabulary(*JOINT)}


def marian(files: dict[str, bytes], name: str) -> Backend:
    return Backend.from_str(convert(FOLDER, files, {"model_type": "marian"})[name].decode())


def test_marian_cuts_the_source_by_its_own_model() -> None:
    source = marian(MARIAN, "tokenizer.json")
    assert source.encode("the b").ids == [3, 5, 4, 0]
    assert source.encode("le").ids == [5, 1, 0]
    assert source.encode(">>fra<< the").ids == [9, 3, 0]
    assert source.encode("the", "a").ids == [3, 8, 0]


def test_a_strange_character_keeps_the_id_that_the_target_gives_it() -> None:
    source = marian(MARIAN, "tokenizer.json")
    assert source.encode("b\u00dfb").ids == [5, 4, 6, 4, 0]
    assert source.encode("b\u00df\u00dfb \u00df").ids == [5, 4, 1, 4, 5, 6, 0]  # in a row they are one unknown token


def test_both_files_of_marian_decode_the_target() -> None:
    target = marian(MARIAN, "tokenizer_target.json")
    assert target.encode("le\u00df le").ids == [2, 6, 2, 0]
    assert target.encode("the").ids == [5, 1, 0]
    for tokenizer in (target, marian(MARIAN, "tokenizer.json")):
        assert tokenizer.decode([2, 6, 3, 0]) == "le\u00df the"


def test_the_target_may_have_a_vocabulary_of_its_own() -> None:
    own = vocabulary("<unk>", f"{SPACE}le", "</s>", "<pad>")
    files = {**MARIAN, "target_vocab.json": own, **settings(separate_vocabs=True)}
    assert marian(files, "tokenizer.json").encode("the").ids == [3, 0]
    assert marian(files, "tokenizer_target.json").encode("le").ids == [1, 2]


def test_a_vocabulary_needs_the_unknown_token() -> None:
    with pytest.raises(CorruptFile, match=r"vocab\.json: lacks the unknown token '<unk>'"):
        marian({**MARIAN, "vocab.json": vocabulary("</s>", "<pad>")}, "tokenizer.json")


def test_a_folder_of_marian_gives_both_files(tmp_path: Path) -> None:
    files = {**MARIAN, **settings(tokenizer_class="MarianTokenizer")}
    folder = write_hub_folder(tmp_path, {"model_type": "marian"}, {"w": np.zeros(3, np.float32)}, files=files)
    checkpoint = open_checkpoint(folder)
    assert {"source.spm", "target.spm", "vocab.json"} <= {file.name for file in checkpoint.files}
    assert list(checkpoint.tokenizer_files()) == ["tokenizer_config.json", "tokenizer.json", "tokenizer_target.json"]


# Pegasus, T5


def test_pegasus_has_its_masks_before_the_pieces() -> None:
    files = {"spiece.model": unigram("<pad>", "</s>", "<unk>")}
    assert ids("pegasus", files, "the <mask_1><mask_2><unk_2><unk_102>") == [107, 2, 3, 4, 104, 1]
    assert ids("pegasus", files, "\u4f60") == [106, 105, 1]
    assert ids("pegasus", {**files, **settings(offset=2)}, "the<mask_2>") == [6, 3, 1]
    plain = settings(offset=0, mask_token_sent=None)
    assert ids("pegasus", {**files, **plain}, "the", "the") == [4, 4, 1]


@pytest.mark.parametrize(
    ("given", "message_words"),
    [
        ({"offset": -1}, "offset is -1"),
        ({"offset": 10**9}, "offset is 1000000000"),
        ({"offset": 0}, "offset is 0, but there are 2 tokens before the pieces"),
    ],
)
def test_pegasus_refuses_an_offset_that_cannot_be(given: dict[str, Any], message_words: str) -> None:
    with pytest.raises(CorruptFile, match=rf"tokenizer_config\.json: {message_words}"):
        backend("pegasus", {"spiece.model": unigram("<pad>", "</s>", "<unk>"), **settings(**given)})


@pytest.mark.parametrize("model_type", ["mt5", "umt5", "longt5"])
def test_later_t5s_have_its_tokenizer(model_type: str) -> None:
    files = {"spiece.model": unigram("<pad>", "</s>", "<unk>"), **settings(tokenizer_class="MT5Tokenizer", extra_ids=2)}
    assert ids(model_type, files, "the<extra_id_0>") == [4, 6, 1]


# Blenderbot


def test_blenderbot_ends_its_texts_and_starts_them_with_a_space() -> None:
    files = pairs(["<s>", "<pad>", "</s>", "<unk>", *ALPHABET, "he", "\u0120he", "<mask>"], ["h e", "\u0120 he"])
    assert ids("blenderbot", files, "he") == [4 + 257, 2]
    assert ids("blenderbot", {**files, **settings(add_prefix_space=False)}, "he <mask>") == [4 + 256, 4 + 258, 2]


WORDS = ("__null__", "__start__", "__end__", "__unk__", "the", "the@@", "m", ".", "'", "__newln__", "a@@")
SMALL = pairs(WORDS, ["t h", "th e</w>", "th e", "q u", "_ n"])


def test_blenderbot_small_marks_what_does_not_end_a_word() -> None:
    tokenizer = backend("blenderbot-small", SMALL)
    assert tokenizer.encode("The  them m'm.").ids == [4, 5, 6, 6, 8, 6, 7]
    assert tokenizer.encode("__start__ the").ids == [1, 4]
    assert tokenizer.encode("m..m").ids == [6, 7, 3, 6]
    assert tokenizer.decode([4, 5, 6, 7]) == "the them ."


def test_blenderbot_small_reads_a_line_break_after_a_word() -> None:
    breaks = backend("blenderbot-small", pairs(("__unk__", "m", "__newln__", "'"), ["_ _</w>"])).normalizer
    assert breaks is not None
    assert breaks.normalize_str("M\nm \n m'\nm\n\n") == "m __newln__ m \n m'\nm __newln__ \n"


def test_ways_to_longer_tokens_come_after_the_vocabulary() -> None:
    tokenizer = backend("blenderbot-small", SMALL)
    assert [tokenizer.token_to_id(token) for token in ("e", "e</w>", "h", "t", "th")] == [11, 12, 13, 14, 15]
    assert tokenizer.get_vocab_size() == 16
    assert tokenizer.encode("thm q am").ids == [15, 6, 3, 10, 6]


def test_blenderbot_small_refuses_merges_that_are_no_pairs() -> None:
    with pytest.raises(CorruptFile, match=r"merges\.txt: holds 'the' at 1, which is no pair"):
        backend("blenderbot-small", pairs(WORDS, ["t h", "the"]))
    with pytest.raises(CorruptFile, match=r"vocab\.json: spells 'a</w>' in two ways"):
        backend("blenderbot-small", pairs((*WORDS, "a", "a</w>@@"), []))


def test_a_sentencepiece_model_of_another_kind_is_refused() -> None:
    with pytest.raises(
        UnsupportedConfig, match="is of the kind WORD, and this tokenizer class goes with UNIGRAM or BPE"
    ):
        backend("mbart", {"sentencepiece.bpe.model": unigram("<unk>", algorithm=Algorithm.WORD)})
    with pytest.raises(CorruptFile, match="its SentencePiece model holds 1 pieces, and the first 3 are special"):
        backend("mbart", {"sentencepiece.bpe.model": sentencepiece_bytes(specials("<unk>"))})
