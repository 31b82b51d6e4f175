"""Real vocabularies were compared by hand (llama.cpp's own test vectors); here small ones stand for each kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from edgelm.chat import ChatTemplate
from edgelm.errors import CorruptFile, UnsupportedConfig
from edgelm.tokenizer import Tokenizer
from edgelm_export.checkpoint.gguf_pre_tokenizers import PRE_TOKENIZERS
from edgelm_export.checkpoint.gguf_tokenizer import end_token_ids, tokenizer_files
from edgelm_export.checkpoint.gguf_vocabulary import TokenType

SENTENCEPIECE = json.loads((Path(__file__).parent / "data" / "sentencepiece_bpe.json").read_text(encoding="utf-8"))
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = TokenType
# Byte-level spelling of all bytes: what GPT-2's vocabulary starts with, in another order.
ALPHABET = [*map(chr, range(0x21, 0x7F)), *map(chr, range(0xA1, 0xAD)), *map(chr, range(0xAE, 0x100))]
ALPHABET += [chr(0x100 + i) for i in range(256 - len(ALPHABET))]
MERGES = ["\u0120 t", "h e", "\u0120t he", "1 2", "12 3", "\u010a \u010a", "\u0120 \u0120"]
ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "[PAD0]"]


def byte_level(**changes: Any) -> dict[str, Any]:
    """Metadata of a byte-level vocabulary: 256 bytes, seven merges, three control tokens, a user-defined and an unused one."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*ALPHABET, *merged, *ENDS]
    types = [NORMAL] * (len(ALPHABET) + len(MERGES)) + [CONTROL] * 3 + [USER, UNUSED]
    metadata: dict[str, Any] = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [int(kind) for kind in types],
        "merges": MERGES,
        "bos_token_id": tokens.index("<|im_start|>"),
        "eos_token_id": tokens.index("<|im_end|>"),
        "unknown_token_id": tokens.index("<|endoftext|>"),
    }
    return prefixed(metadata | changes)


def sentencepiece(**changes: Any) -> dict[str, Any]:
    return SENTENCEPIECE["metadata"] | prefixed(changes)


def unigram(**changes: Any) -> dict[str, Any]:
    pieces = {
        "<pad>": 0.0,
        "</s>": 0.0,
        "<unk>": 0.0,
        "\u2581": -2.0,
        "\u2581the": -3.0,
        "t": -4.0,
        "he": -3.5,
        "c": -4.5,
    }
    types = [int(kind) for kind in (CONTROL, CONTROL, UNKNOWN, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL)]
    metadata = {"model": "t5", "tokens": [*pieces], "scores": [*pieces.values()], "token_type": types}
    return prefixed(metadata | {"eos_token_id": 1, "unknown_token_id": 2, "padding_token_id": 0} | changes)


def wordpiece(**changes: Any) -> dict[str, Any]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581the", "\u2581fox", "es", "\u2581,"]
    types = [int(kind) for kind in (CONTROL, CONTROL, CONTROL, CONTROL, NORMAL, NORMAL, NORMAL, NORMAL)]
    ids = {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3, "padding_token_id": 0}
    return prefixed({"model": "bert", "pre": "bert-bge", "tokens": tokens, "token_type": types} | ids | changes)


def prefixed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


def without(metadata: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key.removeprefix("tokenizer.ggml.") not in keys}


@pytest.fixture
def build(tmp_path: Path):
    def write_and_load(metadata: Mapping[str, Any]) -> Tokenizer:
        for name, content in tokenizer_files(metadata).items():
            (tmp_path / name).write_bytes(content)
        return Tokenizer.from_folder(tmp_path)

    return write_and_load


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([i], skip_special_tokens=False) for i in tokenizer.encode(text)]


# One text that tells the rows apart; those of deepseek-llm's pieces that look odd are its own pattern's doing (":-~").
TEXT = "I'VE we've 12345 x=3.5;\n\n  caf\u00e9's e\u0301a \u4f60\u597dab ??!"
PIECES = {
    "default": "I|'|VE| we|'|ve| |123|45| x|=|3|.|5|;|\n\n | caf\u00e9|'|s| e|\u0301|a| \u4f60\u597dab| |??!",
    "gpt-2": "I|'|VE| we|'ve| 12345| x|=|3|.|5|;|\n\n | caf\u00e9|'s| e|\u0301|a| \u4f60\u597dab| ??!",
    "smollm": "I|'|VE| we|'ve| |1|2|3|4|5| x|=|3|.|5|;|\n\n | caf\u00e9|'s| e|\u0301|a| \u4f60\u597dab| ??!",
    "llama-bpe": "I|'VE| we|'ve| |123|45| x|=|3|.|5|;\n\n| | caf\u00e9|'s| e|\u0301a| \u4f60\u597dab| ??!",
    "qwen2": "I|'VE| we|'ve| |1|2|3|4|5| x|=|3|.|5|;\n\n| | caf\u00e9|'s| e|\u0301a| \u4f60\u597dab| ??!",
    "qwen35": "I|'VE| we|'ve| |1|2|3|4|5| x|=|3|.|5|;\n\n| | caf\u00e9|'s| e\u0301a| \u4f60\u597dab| ??!",
    "tekken": "I|'VE| we|'ve| |1|2|3|4|5| x|=|3|.|5|;\n\n| | caf\u00e9|'s| e\u0301a| \u4f60\u597dab| ??!",
    "gpt-4o": "I'VE| we've| |123|45| x|=|3|.|5|;\n\n| | caf\u00e9's| e\u0301a| \u4f60\u597dab| ??!",
    "deepseek-llm": "I|'|VE| we|'|ve| |1|2|3|4|5| x|=|3|.|5|;|\n|\n| | caf|\u00e9|'|s| e|\u0301|a| |\u4f60\u597d|ab| ??!",
    "deepseek-coder": "I|'|VE| we|'|ve| |1|2|3|4|5| x|=|3|.|5|;|\n|\n| | caf\u00e9|'|s| e|\u0301|a| |\u4f60\u597d|ab| ??!",
    "deepseek-v3": "I|'VE| we|'ve| |123|45| x|=|3|.|5|;\n\n| | caf\u00e9|'s| e\u0301a| |\u4f60\u597d|ab| ??!",
    "falcon": "I|'|VE| we|'|ve| |123|45| x|=|3|.|5|;|\n\n | caf\u00e9|'|s| e|\u0301|a| \u4f60\u597dab| |??!",
    "bloom": "I'VE| we've| 12345| x=3|.|5;|\n\n | caf\u00e9's| e\u0301a| \u4f60\u597dab| ??!",
    "viking": "I'VE| we've| |1|2|3|4|5| x=|3|.|5|;|\n\n | caf\u00e9's| e\u0301a| \u4f60\u597dab| ??!",
    "seed-coder": "I|'VE| we|'ve| |1|2|3|4|5| x|=|3|.|5|;|\n\n| | caf\u00e9|'s| e|\u0301a| \u4f60\u597dab| ??!",
    "bailingmoe": "I|'VE| we|'ve| |1|2|3|4|5| x|=|3|.|5|;\n\n| | caf\u00e9|'s| e|\u0301a| \u4f60\u597dab| ??!",
}


@pytest.mark.parametrize("name", PIECES)
def test_pre_tokenizer_cuts_like_its_model(name: str) -> None:
    files = tokenizer_files(byte_level(pre=name))
    backend = Backend.from_str(files["tokenizer.json"].decode())
    assert backend.pre_tokenizer is not None
    cuts = [TEXT[start:stop] for _, (start, stop) in backend.pre_tokenizer.pre_tokenize_str(TEXT)]
    assert "|".join(cuts) == PIECES[name]


def test_every_row_of_the_table_is_tried_above() -> None:
    assert {PRE_TOKENIZERS[name].patterns for name in PIECES} == {row.patterns for row in PRE_TOKENIZERS.values()}


def test_unknown_pre_tokenizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UnsupportedConfig, match=r"pre 'llama-9' is an unknown pre-tokenizer; known are .*qwen2.*hub layout"
    ):
        tokenizer_files(byte_level(pre="llama-9"))


def test_file_without_a_pre_tokenizer_gets_the_default(build: Any) -> None:
    assert pieces(build(without(byte_level(), "pre")), "12345") == pieces(build(byte_level(pre="default")), "12345")


def test_byte_level_merges_by_rank(build: Any) -> None:
    tokenizer = build(byte_level(pre="llama-bpe", add_bos_token=False))
    assert pieces(tokenizer, "x the 1234\n\n") == ["x", " the", " ", "123", "4", "\n\n"]
    assert tokenizer.vocab_size == 256 + len(MERGES) + len(ENDS)


def test_byte_level_text_comes_back(build: Any) -> None:
    tokenizer = build(byte_level())
    text = "caf\u00e9 \u4f60\u597d \U0001f600\n\n\t the  <think> 12"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_whole_tokens_need_no_merges_where_the_model_ignores_them(build: Any) -> None:
    metadata = byte_level(tokens=[*byte_level()["tokenizer.ggml.tokens"], "xyz"])
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 1]
    assert pieces(build(metadata | prefixed({"pre": "glm4"})), "xyz") == ["xyz"]
    assert pieces(build(metadata | prefixed({"pre": "chatglm-bpe"})), "xyz") == ["x", "y", "z"]


def test_characters_are_composed_where_the_model_does_so(build: Any) -> None:
    assert pieces(build(byte_level(pre="qwen2")), "e\u0301") == pieces(
        build(byte_level(pre="deepseek-r1-qwen")), "\u00e9"
    )
    assert len(build(byte_level(pre="deepseek-r1-qwen")).encode("e\u0301")) == 3


def test_token_types_become_added_tokens(build: Any) -> None:
    tokenizer = build(byte_level())
    ids = tokenizer.encode("<|im_start|>a<think>b<|im_end|>[PAD0]")
    assert [i for i in ids if i >= 256 + len(MERGES)] == [
        tokenizer.token_id(token) for token in (ENDS[1], ENDS[3], ENDS[2])
    ]
    assert tokenizer.decode(ids) == "a<think>b[PAD0]"


def test_end_tokens_are_special_whatever_their_type(build: Any) -> None:
    metadata = byte_level()
    metadata["tokenizer.ggml.token_type"] = [1] * len(metadata["tokenizer.ggml.tokens"])
    tokenizer = build(metadata)
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>b")) == "ab"
    assert (
        tokenizer.decode(tokenizer.encode("a<|endoftext|>b")) == "a<|endoftext|>b"
    )  # unknown_token_id may point anywhere


def test_without_types_the_named_tokens_are_special(build: Any) -> None:
    tokenizer = build(without(byte_level(), "token_type"))
    assert tokenizer.decode(tokenizer.encode("a<|endoftext|>b")) == "ab"


@pytest.mark.parametrize(
    ("changes", "start", "end"),
    [
        ({}, False, False),
        ({"pre": "llama-bpe"}, True, False),
        ({"pre": "llama-bpe", "add_bos_token": False}, False, False),
        ({"add_bos_token": True, "add_eos_token": True}, True, True),
    ],
)
def test_special_tokens_are_added_by_flag_or_habit(build: Any, changes: dict[str, Any], start: bool, end: bool) -> None:
    tokenizer = build(byte_level(**changes))
    ids, plain = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    bos, eos = tokenizer.token_id("<|im_start|>"), tokenizer.token_id("<|im_end|>")
    assert ids == [*[bos] * start, *plain, *[eos] * end]


def test_habit_of_a_start_token_needs_the_token(build: Any) -> None:
    assert len(build(without(byte_level(pre="llama-bpe"), "bos_token_id")).encode("a")) == 1


def test_config_names_the_special_tokens() -> None:
    config = json.loads(tokenizer_files(byte_level(add_bos_token=True))["tokenizer_config.json"])
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }


def test_chat_template_gets_its_own_file(tmp_path: Path) -> None:
    files = tokenizer_files({**byte_level(), "tokenizer.chat_template": "{{ '\u00e9' }}"})
    assert files["chat_template.jinja"].decode() == "{{ '\u00e9' }}"
    assert "chat_template" not in json.loads(files["tokenizer_config.json"])
    assert "chat_template.jinja" not in tokenizer_files(byte_level())


def test_named_chat_templates_stay_together(tmp_path: Path) -> None:
    templates = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "with {{ tools | length }}"}
    files = tokenizer_files({**byte_level(), **templates, "tokenizer.chat_templates": ["tool_use"]})
    assert "chat_template.jinja" not in files
    (tmp_path / "tokenizer_config.json").write_bytes(files["tokenizer_config.json"])
    template = ChatTemplate.from_folder(tmp_path, {})
    assert template is not None
    assert template.render([{"role": "user"}], tools=[{}]) == "with 1"


def test_chat_template_that_is_no_text_is_refused() -> None:
    with pytest.raises(UnsupportedConfig, match=r"tokenizer\.chat_template default is no text"):
        tokenizer_files({**byte_level(), "tokenizer.chat_template": 7})


@pytest.mark.parametrize("case", SENTENCEPIECE["texts"], ids=lambda case: repr(case["text"])[:30])
def test_sentencepiece_ids_and_text_are_its_own(build: Any, case: dict[str, Any]) -> None:
    tokenizer = build(sentencepiece())
    assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids"]
    assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_sentencepiece_starts_with_bos_by_habit(build: Any) -> None:
    assert build(sentencepiece()).encode("a")[0] == 1
    assert build(sentencepiece(add_bos_token=False)).encode("a")[0] != 1


def test_sentencepiece_without_a_space_before_the_text(build: Any) -> None:
    tokenizer = build(sentencepiece(add_space_prefix=False, add_bos_token=False))
    assert pieces(tokenizer, "the the") == ["t", "he", " the"]
    assert tokenizer.decode(tokenizer.encode(" the")) == " the"


def test_sentencepiece_space_comes_back_after_special_tokens(build: Any) -> None:
    # As llama.cpp: each stretch of text between special tokens starts with the space.
    tokenizer = build(sentencepiece(add_bos_token=False))
    assert tokenizer.encode("<s>the</s>the") == [1, *tokenizer.encode("the"), 2, *tokenizer.encode("the")]


def test_sentencepiece_ids_default_to_its_own(build: Any) -> None:
    tokenizer = build(without(sentencepiece(), "bos_token_id", "eos_token_id", "unknown_token_id"))
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_arrays_of_numpy_are_read(build: Any) -> None:
    metadata = sentencepiece()
    for key in ("scores", "token_type"):
        metadata[f"tokenizer.ggml.{key}"] = np.array(metadata[f"tokenizer.ggml.{key}"])
    assert tokenizer_files(metadata) == tokenizer_files(sentencepiece())


def test_unigram_takes_the_likeliest_cut(build: Any) -> None:
    tokenizer = build(unigram())
    assert tokenizer.encode("the the") == [4, 4, 1]
    assert tokenizer.encode("tche") == [3, 5, 7, 6, 1]
    assert tokenizer.decode(tokenizer.encode("the  the")) == "the  the"
    assert build(unigram(remove_extra_whitespaces=True)).encode("  the   the ") == [4, 4, 1]


def test_unigram_falls_back_to_bytes_it_has(build: Any) -> None:
    metadata = unigram()
    for key, values in {
        "tokens": [f"<0x{byte:02X}>" for byte in range(256)],
        "scores": [0.0] * 256,
        "token_type": [int(BYTE)] * 256,
    }.items():
        metadata[f"tokenizer.ggml.{key}"] = [*metadata[f"tokenizer.ggml.{key}"], *values]
    tokenizer = build(metadata)
    assert tokenizer.encode("\u4f60", add_special_tokens=False)[1:] == [8 + byte for byte in "\u4f60".encode()]
    assert tokenizer.decode(tokenizer.encode("the \u4f60 the")) == "the \u4f60 the"


def test_wordpiece_marks_are_turned_back(build: Any) -> None:
    tokenizer = build(wordpiece())
    assert tokenizer.encode("The foxes, x") == [2, 4, 5, 6, 7, 1, 3]
    assert tokenizer.decode([4, 5, 6, 7]) == "the foxes,"
    assert build(wordpiece(**{"normalizer.lowercase": False})).encode("The fox") == [2, 1, 5, 3]


@pytest.mark.parametrize("kind", ["rwkv", "gemma4", ""])
def test_unknown_kind_is_refused_with_the_known_ones(kind: str) -> None:
    with pytest.raises(
        UnsupportedConfig, match="unknown kind of vocabulary; known are gpt2, llama, t5, bert.*hub layout"
    ):
        tokenizer_files(byte_level(model=kind))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (without(byte_level(), "tokens"), "tokens is missing or empty"),
        (byte_level(tokens="abc"), "tokens is str instead of an array"),
        (byte_level(tokens=["a", 7]), "tokens holds at 1 something that is no UTF-8 text"),
        (byte_level(tokens=["a", "\udcff"]), "tokens holds at 1 something that is no UTF-8 text"),
        (byte_level(tokens=["a", "b", "a"]), "tokens lists 'a' twice, as 0 and 2"),
        (byte_level(token_type=[1, 2]), "token_type has 2 entries for 268 tokens"),
        (byte_level(token_type=["1"] * 268), "token_type holds '1' at 0, which is no finite number"),
        (byte_level(eos_token_id=268), r"eos_token_id is 268, outside 0\.\.267"),
        (byte_level(bos_token_id=-1), r"bos_token_id is -1, outside 0\.\.267"),
        (byte_level(bos_token_id="1"), r"bos_token_id is '1', outside"),
        (byte_level(padding_token_id=2**32 - 1), r"padding_token_id is 4294967295, outside"),
        (without(byte_level(), "merges"), "merges is missing or empty"),
        (byte_level(merges=["ab"]), "merges holds 'ab' at 0, which does not join two tokens to a third"),
        (byte_level(merges=["h e", "q q"]), "merges holds 'q q' at 1"),
        (byte_level(merges=[7]), "merges holds at 0 something that is no UTF-8 text"),
        (byte_level(model=7), "model is int instead of str"),
        (byte_level(add_bos_token="yes"), "add_bos_token is str instead of bool"),
        (
            without(byte_level(add_bos_token=True), "bos_token_id"),
            "add_bos_token is set, but the file names no bos_token",
        ),
        (without(sentencepiece(), "scores"), "scores is missing"),
        (sentencepiece(scores=[0.0]), "scores has 1 entries for 700 tokens"),
        (sentencepiece(scores=[float("nan")] * 700), "scores holds nan at 0, which is no finite number"),
        (
            sentencepiece(tokens=[*SENTENCEPIECE["metadata"]["tokenizer.ggml.tokens"][:-1], "x" * 1025]),
            "piece of 1,025",
        ),
        (unigram(unknown_token_id=99), "unknown_token_id is 99, outside"),
        (unigram(precompiled_charsmap=[1, 2, 3]), "precompiled_charsmap is no normalization table"),
        (unigram(precompiled_charsmap=[8, 0, 0, 0, 1, 1, 1, 1]), "precompiled_charsmap is no normalization table"),
        (unigram(precompiled_charsmap=[0, 0, 0, 0, -1, -1]), "precompiled_charsmap is no normalization table"),
        (unigram(precompiled_charsmap=[999]), "precompiled_charsmap holds 999 at 0, which is no byte"),
        (wordpiece(tokens=["[UNK]", "b", "c", "d", "a", "\u2581##a", "e", "f"]), "lists a WordPiece token twice"),
    ],
)
def test_broken_metadata_is_refused(metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(CorruptFile, match=rf"^tokenizer\.ggml\..*{words}.*download it again"):
        tokenizer_files(metadata)


def test_unigram_without_an_unknown_token_is_refused() -> None:
    metadata = unigram(token_type=[1] * 8)
    with pytest.raises(CorruptFile, match="unknown_token_id is missing, and a Unigram vocabulary needs it"):
        tokenizer_files(without(metadata, "unknown_token_id"))


def test_wordpiece_without_an_unknown_token_is_refused() -> None:
    metadata = wordpiece(tokens=["[PAD]", "[CLS]", "[SEP]", "\u2581a"], token_type=[3, 3, 3, 1], seperator_token_id=2)
    with pytest.raises(CorruptFile, match=r"unknown_token_id is missing, and there is no \[UNK\] token"):
        tokenizer_files(without(metadata, "unknown_token_id", "cls_token_id") | prefixed({"cls_token_id": 1}))


def test_empty_tokens_get_a_name(build: Any) -> None:
    tokens = byte_level()["tokenizer.ggml.tokens"]
    assert build(byte_level(tokens=[*tokens[:-1], ""])).token_id("[EMPTY_267]") == 267


def test_end_ids_are_those_named_and_those_that_read_like_an_end() -> None:
    tokens = byte_level()["tokenizer.ggml.tokens"]
    end, text_end = tokens.index("<|im_end|>"), tokens.index("<|endoftext|>")
    assert end_token_ids(byte_level()) == [end, text_end]
    assert end_token_ids(byte_level(eos_token_id=text_end, eot_token_id=end, eom_token_id=3)) == [text_end, end, 3]
    assert end_token_ids(without(byte_level(token_type=[1] * 268), "eos_token_id")) == []


def test_message_end_of_gpt_oss_is_no_end() -> None:
    tokens = ["a", "<|end|>", "<|return|>", "<|call|>"]
    assert end_token_ids(prefixed({"tokens": tokens, "token_type": [1, 3, 3, 3]})) == [2, 3]
    assert end_token_ids(prefixed({"tokens": tokens[:2], "token_type": [1, 3]})) == [1]


def test_files_are_the_same_each_time() -> None:
    assert tokenizer_files(byte_level()) == tokenizer_files(byte_level())


def test_large_vocabulary_takes_seconds() -> None:
    import time

    letters = [chr(0x4E00 + i) for i in range(400)]
    pairs = [a + b for a in letters for b in letters][:150_000]
    tokens = ["<unk>", "<s>", "</s>", *letters, *pairs]
    types = [int(UNKNOWN), int(CONTROL), int(CONTROL), *[1] * (len(tokens) - 3)]
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "token_type": types,
        "scores": [-float(i) for i in range(len(tokens))],
    }
    start = time.process_time()
    tokenizer_files(prefixed(metadata))
    assert time.process_time() - start < 10
