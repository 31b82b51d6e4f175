"""Slow tokenizers with a SentencePiece model so small that every id below was worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from edgelm_export.checkpoint.sentencepiece_model import Algorithm, PieceType
from tests.export.slow_files import (
    CHARSMAP,
    SPACE,
    backend,
    ids,
    scored,
    sentencepiece,
    sentencepiece_bytes,
    settings,
    specials,
)


def test_xlm_roberta_shifts_its_ids_as_fairseq_did() -> None:
    files = sentencepiece("sentencepiece.bpe.model", "<unk>", "<s>", "</s>", charsmap=CHARSMAP)
    # 0..3 <s> <pad> </s> <unk>, then the pieces: a space 4, the 5, a 6, b 7, ... 8, fi 9; the mask after them is 13.
    assert ids("xlm-roberta", files, "the ab\u2026<mask>") == [0, 5, 6, 7, 8, 13, 2]
    assert ids("xlm-roberta", files, "the", "a") == [0, 5, 2, 2, 6, 2]
    assert ids("xlm-roberta", files, "q") == [0, 4, 3, 2]


def test_unigram_reads_white_space_as_one_space_between_words() -> None:
    files = sentencepiece("sentencepiece.bpe.model", "<unk>", "<s>", "</s>", charsmap=CHARSMAP)
    assert ids("xlm-roberta", files, "  the \t\n a\u00a0a ") == [0, 5, 6, 6, 2]
    assert ids("xlm-roberta", files, " ") == [0, 2]


def test_the_models_own_table_normalizes() -> None:
    files = sentencepiece("sentencepiece.bpe.model", "<unk>", "<s>", "</s>", charsmap=CHARSMAP)
    assert ids("xlm-roberta", files, "\ufb01") == ids("xlm-roberta", files, "fi") == [0, 4, 9, 2]
    plain = sentencepiece("sentencepiece.bpe.model", "<unk>", "<s>", "</s>")
    assert ids("xlm-roberta", plain, "\ufb01") == [0, 4, 3, 2]


def test_camembert_has_a_shift_of_its_own() -> None:
    files = sentencepiece("sentencepiece.bpe.model", "<unk>", "<s>", "</s>")
    # 0..4 as fairseq wrote them, <s> 5, </s> 6, then the pieces from 7; the mask after them is 16.
    assert ids("camembert", files, "the <mask>") == [5, 8, 16, 6]
    assert ids("camembert", files, "a", "b q") == [5, 9, 6, 6, 7, 10, 7, 3, 6]


def test_albert_unifies_quotation_marks_and_drops_case_and_accents() -> None:
    files = sentencepiece("spiece.model", "<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
    # the pieces from 5: a space, the 6, a 7, b 8, ... 9, fi 10, e with an accent 11, e 12, quotation mark 13.
    assert ids("albert", files, "THE ``\u00e9''") == [2, 6, 5, 13, 12, 13, 3]
    assert ids("albert", files, "the", "a[MASK]") == [2, 6, 3, 7, 4, 3]
    kept = {**files, **settings(do_lower_case=False, keep_accents=True)}
    assert ids("albert", kept, "\u00e9 B") == [2, 5, 11, 5, 1, 3]


def test_deberta_v2_gets_its_mask_after_the_vocabulary() -> None:
    files = sentencepiece("spm.model", "[PAD]", "[CLS]", "[SEP]", "[UNK]", charsmap=CHARSMAP)
    # the pieces from 4: a space, the 5, a 6, b 7, ... 8, fi 9, e 11; 13 is the first id after them.
    assert ids("deberta-v2", files, " the [MASK] a  \t b \ufb01\u200be\u2026 ") == [1, 5, 13, 6, 4, 7, 4, 9, 11, 8, 2]
    assert ids("deberta-v2", files, "THE", "a") == [1, 4, 3, 2, 6, 2]
    assert ids("deberta-v2", {**files, **settings(do_lower_case=True)}, "THE") == [1, 5, 2]
    assert ids("deberta-v2", files, "b...") == [1, 4, 7, 8, 2]
    assert ids("deberta-v2", {**files, **settings(split_by_punct=True)}, "b...") == [1, 4, 7, 4, 3, 4, 3, 4, 3, 2]


def test_t5_has_its_sentinels_in_reverse_after_the_vocabulary() -> None:
    files = sentencepiece("spiece.model", "<pad>", "</s>", "<unk>")
    assert ids("t5", files, "the <extra_id_0><extra_id_99>") == [4, 111, 12, 1]
    assert ids("t5", files, "the", "a") == [4, 1, 5, 1]
    assert ids("t5", {**files, **settings(extra_ids=2)}, "<extra_id_0><extra_id_1>") == [13, 12, 1]
    assert backend("mt5", {**files, **settings(extra_ids=0)}).get_vocab_size() == 12


def llama(**options: Any) -> dict[str, bytes]:
    octets = [(f"<0x{byte:02X}>", 0.0, PieceType.BYTE) for byte in range(256)]
    letters = scored(SPACE, "t", "h", "e", "he", "the", f"{SPACE}the")
    pieces = [*specials("<unk>", "<s>", "</s>"), *octets, *letters, ("<tool>", 0.0, PieceType.USER_DEFINED)]
    return {"tokenizer.model": sentencepiece_bytes(pieces, Algorithm.BPE, **options)}


def test_llama_merges_by_score_and_falls_back_to_bytes() -> None:
    space, the, spaced, tool = 259, 264, 265, 266
    assert ids("llama", llama(), "the the") == [1, spaced, spaced]
    assert ids("llama", llama(), "the\u00e9") == [1, spaced, 3 + 0xC3, 3 + 0xA9]
    assert ids("llama", llama(), "the<tool>the") == [1, spaced, tool, the]
    assert ids("llama", {**llama(), **settings(legacy=True)}, "the<tool>the") == [1, spaced, tool, spaced]
    assert ids("mistral", llama(), "  the") == [1, space, spaced]


def test_llama_starts_with_bos_unless_its_flag_says_no() -> None:
    spaced = 265
    assert ids("llama", llama(), "the", "the") == [1, spaced, 1, spaced]
    assert ids("llama", {**llama(), **settings(add_eos_token=True)}, "the") == [1, spaced, 2]
    assert ids("llama", {**llama(), **settings(add_bos_token=False)}, "the") == [spaced]
    assert ids("llama", {**llama(), **settings(bos_token=None)}, "the") == [spaced]


@pytest.mark.parametrize(
    "files", [llama(dummy_prefix=False), {**llama(), **settings(add_prefix_space=False)}], ids=["model", "settings"]
)
def test_llama_without_a_space_before_the_text(files: dict[str, bytes]) -> None:
    tokenizer = backend("llama", files)
    assert tokenizer.encode("the the").ids == [1, 264, 265]
    assert tokenizer.decode([265]) == " the"
