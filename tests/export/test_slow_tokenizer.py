"""Vocabularies small enough that every id below was worked out by hand; live comparisons are in tests/parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.tokenizer import Tokenizer
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.checkpoint.slow_tokenizer import FAMILIES, MODEL_TYPES, convert
from edgelm_export.hub_files import wanted_files
from tests.export.builders import write_hub_folder
from tests.export.slow_files import ALPHABET, CHARSMAP, FOLDER, backend, ids, pairs, sentencepiece, settings, words

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = words(*BERT, "the", "fox", "##es", ",", "cafe", "caf\u00e9", "\u4f60", "\u597d")
MERGES = ("\u0120 t", "h e", "\u0120t he", "x y")
JOINED = tuple(merge.replace(" ", "") for merge in MERGES)
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")


def byte_level(*first: str, last: tuple[str, ...] = ()) -> dict[str, bytes]:
    return pairs([*first, *ALPHABET, *JOINED, *last], MERGES)


# WordPiece


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra"])
def test_wordpiece_lowers_case_and_drops_accents(model_type: str) -> None:
    assert ids(model_type, WORDS, "The foxes, caf\u00e9 x") == [2, 5, 6, 7, 8, 9, 1, 3]
    assert ids(model_type, WORDS, "the [MASK]", "fox") == [2, 5, 4, 3, 6, 3]
    assert backend(model_type, WORDS).encode("the", "fox").type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("given", "text", "expected"),
    [
        ({"do_lower_case": False}, "The the caf\u00e9", [1, 5, 10]),
        ({"do_lower_case": False, "strip_accents": True}, "caf\u00e9", [9]),
        ({"strip_accents": False}, "Caf\u00e9", [10]),
        ({"strip_accents": None}, "Caf\u00e9", [9]),
        ({}, "\u4f60\u597d", [11, 12]),
        ({"tokenize_chinese_chars": False}, "\u4f60\u597d", [1]),
    ],
)
def test_wordpiece_follows_its_settings(given: dict[str, Any], text: str, expected: list[int]) -> None:
    assert ids("bert", {**WORDS, **settings(**given)}, text) == [2, *expected, 3]


def test_mpnet_has_its_own_special_tokens() -> None:
    files = words("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>", "the", "fox")
    assert ids("mpnet", files, "the  <mask> cat") == [0, 6, 5, 4, 2]
    assert ids("mpnet", files, "the", "fox") == [0, 6, 2, 2, 7, 2]


def test_lines_of_white_space_keep_the_ids_after_them() -> None:
    files = {"vocab.txt": "[UNK]\r\n[CLS]\r\n\r\n\u3000\r\n[SEP]\r\nthe \r\n".encode()}
    assert ids("bert", files, "the") == [1, 5, 4]


# Byte-level BPE: ids of the letters follow the special tokens in ALPHABET's order.


def test_roberta_puts_two_separators_between_texts() -> None:
    files = byte_level(*FAIRSEQ, last=("<mask>",))
    the, spaced, mask = 4 + 256 + 1, 4 + 256 + 2, 4 + 256 + 4
    assert ids("roberta", files, "he the<mask>") == [0, the, spaced, mask, 2]
    assert ids("roberta", files, "he", "he") == [0, the, 2, 2, the, 2]
    assert backend("roberta", files).encode("x the").offsets == [(0, 0), (0, 1), (2, 5), (0, 0)]
    assert ids("bart", files, "he") == [0, the, 2]


def test_byte_level_follows_its_settings() -> None:
    files = byte_level(*FAIRSEQ, last=("<mask>",))
    before = {**files, **settings(add_prefix_space=True, trim_offsets=False)}
    assert ids("roberta", before, "the") == [0, 4 + 256 + 2, 2]
    assert backend("roberta", before).encode("x the").offsets[3] == (1, 5)


def test_a_mask_takes_the_space_along_unless_a_file_says_no() -> None:
    files = byte_level(*FAIRSEQ, last=("<mask>",))
    he, space, mask = 4 + 256 + 1, 4 + ALPHABET.index("\u0120"), 4 + 256 + 4
    for given in ({}, settings(mask_token="<mask>"), settings(mask_token={"content": "<mask>", "lstrip": True})):
        assert ids("roberta", {**files, **given}, "he <mask>") == [0, he, mask, 2]
    narrow = settings(mask_token={"content": "<mask>", "lstrip": False, "normalized": False})
    assert ids("roberta", {**files, **narrow}, "he <mask>") == [0, he, space, mask, 2]


@pytest.mark.parametrize("model_type", ["roberta", "bart", "mpnet", "deberta", "xlm-roberta", "camembert", "albert"])
def test_masks_of_these_families_take_the_space_along(model_type: str) -> None:
    mask = "[MASK]" if model_type in ("deberta", "albert") else "<mask>"
    files = words(*FAIRSEQ, "[UNK]", "<mask>", "he") | byte_level("[PAD]", "[CLS]", "[SEP]", *FAIRSEQ, last=(mask,))
    files |= sentencepiece("spm.model", "<unk>", "[CLS]", "[SEP]")
    assert ids(model_type, files, f"he {mask}") == ids(model_type, files, f"he{mask}")


def test_gpt2_adds_what_its_flags_ask_for() -> None:
    files = byte_level(last=("<|endoftext|>",))
    he, end = 256 + 1, 256 + 4
    assert ids("gpt2", files, "he<|endoftext|>") == [he, end]
    assert ids("gpt2", {**files, **settings(add_bos_token=True)}, "he") == [end, he]
    assert ids("gpt2", {**files, **settings(add_bos_token=True, add_eos_token=True)}, "he", "he") == [
        *(end, he, end),
        *(end, he, end),
    ]
    assert ids("gpt2", {**files, **settings(add_bos_token=True, bos_token=None)}, "he") == [he]


def test_openai_gpt_marks_the_ends_of_lower_case_words() -> None:
    vocabulary = ["<unk>", "t", "h", "e", "e</w>", "s</w>", "!</w>", "th", "the</w>"]
    files = pairs(vocabulary, ["t h", "th e</w>"])
    assert ids("openai-gpt", files, "The THES!") == [8, 7, 3, 5, 6]
    assert ids("openai-gpt", files, "the \u4f60") == [8, 0]


def test_deberta_v1_has_berts_tokens_over_bytes() -> None:
    files = byte_level("[PAD]", "[CLS]", "[SEP]", "[UNK]", last=("[MASK]",))
    he, mask = 4 + 256 + 1, 4 + 256 + 4
    assert ids("deberta", files, "he[MASK]") == [1, he, mask, 2]
    assert ids("deberta", files, "he", "he") == [1, he, 2, he, 2]
    assert backend("deberta", files).encode("he", "he").type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_qwen2_cuts_by_its_own_pattern(model_type: str) -> None:
    added = json.dumps({"<|endoftext|>": 260, "<|im_start|>": 261}).encode()
    files = {**byte_level(), "added_tokens.json": added}
    digits = [ALPHABET.index(digit) for digit in "12"]
    assert ids(model_type, files, "12\n\n<|im_start|>") == [*digits, *[ALPHABET.index("\u010a")] * 2, 261]
    composed = [ALPHABET.index(chr(byte)) for byte in "\u00e9".encode()]
    assert ids(model_type, files, "e\u0301") == composed
    pieces = backend(model_type, files).pre_tokenizer
    assert pieces is not None
    assert [piece for piece, _ in pieces.pre_tokenize_str("12 x.\n")] == ["1", "2", "\u0120x", ".\u010a"]


# Classes, special and added tokens


def test_the_class_counts_before_the_model_type() -> None:
    for given in ("RobertaTokenizer", "RobertaTokenizerFast"):
        files = {**byte_level(*FAIRSEQ), **settings(tokenizer_class=given)}
        assert ids("bert", files, "he") == [0, 261, 2]
    for given in ("PreTrainedTokenizerFast", "TokenizersBackend", None):
        assert ids("bert", {**WORDS, **settings(tokenizer_class=given)}, "the") == [2, 5, 3]
    assert ids("unheard-of", WORDS, "the", tokenizer_class="BertTokenizer") == [2, 5, 3]


def test_every_model_type_has_a_class() -> None:
    assert set(MODEL_TYPES.values()) <= set(FAMILIES)


def test_settings_name_other_special_tokens() -> None:
    files = words("<pad>", "<unk>", "<c>", "<e>", "the")
    mask = {"__type": "AddedToken", "content": "<m>", "lstrip": True, "normalized": True}
    given = settings(unk_token="<unk>", cls_token="<c>", sep_token="<e>", pad_token="<pad>", mask_token=mask)
    tokenizer = backend("bert", {**files, **given})
    assert tokenizer.encode("the <m> x").ids == [2, 4, 5, 1, 3]
    assert tokenizer.encode("the <m>").offsets[2] == (3, 7)


def test_older_folders_name_them_in_a_second_file() -> None:
    second = {"special_tokens_map.json": json.dumps({"cls_token": "the"}).encode()}
    assert ids("bert", {**WORDS, **second}, "fox") == [5, 6, 3]
    decoder = {"4": {"content": "[MASK]", "special": True}}
    assert ids("bert", {**WORDS, **second, **settings(added_tokens_decoder=decoder)}, "fox") == [2, 6, 3]


def test_added_tokens_get_the_ids_they_declare() -> None:
    declared = {
        "13": {"content": "[NEW]", "special": True},
        "14": {"content": "The Fox", "special": False, "normalized": True},
    }
    files = {**WORDS, **settings(added_tokens_decoder=declared, additional_special_tokens=["[NEW]", "<x>"])}
    assert ids("bert", files, "[NEW] the fox <x>") == [2, 13, 14, 15, 3]
    older = {**WORDS, "added_tokens.json": json.dumps({"[NEW]": 13, "The Fox": 14}).encode()}
    assert ids("bert", older, "[NEW] the fox") == [2, 13, 14, 3]


def test_tokens_of_the_models_own_names_are_special() -> None:
    files = {**WORDS, **settings(image_token="<image>", extra_special_tokens={"boi_token": "<boi>"})}
    assert ids("bert", files, "<image><boi>") == [2, 13, 14, 3]


def test_tokens_past_the_embedding_are_left_out() -> None:
    files = {**WORDS, "added_tokens.json": json.dumps({"[NEW]": 13, "[FAR]": 14, "[GAP]": 99}).encode()}
    tokenizer = backend("bert", files, vocab_size=14)
    assert [tokenizer.token_to_id(token) for token in ("[NEW]", "[FAR]", "[GAP]")] == [13, None, None]


def test_a_special_token_may_be_spelled_like_a_slot_of_the_template() -> None:
    files = words("[UNK]", "$A", "A", "the")
    assert ids("bert", {**files, **settings(cls_token="$A", sep_token="A")}, "the") == [1, 3, 2]


# The way in


def test_a_folder_without_tokenizer_json_gives_a_converted_one(tmp_path: Path) -> None:
    files = {**WORDS, **settings(tokenizer_class="BertTokenizer"), "merges.txt": b"", "spm.txt": b"not read"}
    folder = write_hub_folder(tmp_path, {"model_type": "bert"}, {"w": np.zeros(3, np.float32)}, files=files)
    checkpoint = open_checkpoint(folder)
    names = [file.name for file in checkpoint.files]
    assert names == ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt", "merges.txt"]
    texts = checkpoint.tokenizer_files()
    assert list(texts) == ["tokenizer_config.json", "tokenizer.json"]
    for name, content in texts.items():
        (tmp_path / "package").mkdir(exist_ok=True)
        (tmp_path / "package" / name).write_bytes(content)
    tokenizer = Tokenizer.from_folder(tmp_path / "package")
    assert tokenizer.encode("The foxes") == [2, 5, 6, 7, 3]
    assert tokenizer.decode([2, 5, 6, 7, 3]) == "the foxes"


def test_tokenizer_json_counts_where_there_is_one(tmp_path: Path) -> None:
    files = {**WORDS, "tokenizer.json": b"{}"}
    checkpoint = open_checkpoint(
        write_hub_folder(tmp_path, {"model_type": "bert"}, {"w": np.zeros(3, np.float32)}, files=files)
    )
    assert checkpoint.tokenizer_files() == {"tokenizer.json": b"{}"}
    assert "vocab.txt" not in {file.name for file in checkpoint.files}


def test_a_folder_without_any_vocabulary_gives_no_tokenizer(tmp_path: Path) -> None:
    files = {"merges.txt": b"a b", "added_tokens.json": b"{}"}
    checkpoint = open_checkpoint(
        write_hub_folder(tmp_path, {"model_type": "bert"}, {"w": np.zeros(3, np.float32)}, files=files)
    )
    assert checkpoint.tokenizer_files() == {}


def test_the_hub_is_asked_for_every_file_a_slow_tokenizer_may_have() -> None:
    slow = ["vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "spm.model"]
    slow += [
        "source.spm",
        "target.spm",
        "target_vocab.json",
        "tokenizer.model",
        "added_tokens.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
    ]
    small, _ = wanted_files(["config.json", "model.safetensors", *slow], None, "someone/slow")
    assert set(small) == {"config.json", *slow}


def test_the_same_files_give_the_same_bytes() -> None:
    files = sentencepiece("spiece.model", "<pad>", "</s>", "<unk>", charsmap=CHARSMAP)
    assert convert(FOLDER, files, {"model_type": "t5"}) == convert(FOLDER, files, {"model_type": "t5"})
