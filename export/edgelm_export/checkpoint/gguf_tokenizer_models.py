"""The kinds of vocabulary a GGUF can hold, one function each: a Vocabulary in, the parts of tokenizer.json it decides out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edgelm_export.checkpoint.gguf_pre_tokenizers import pre_tokenizer, split_json
from edgelm_export.checkpoint.gguf_vocabulary import TokenType, Vocabulary, numbers, octets, refuse, setting, strings

_LONGEST_PIECE = 1024  # characters; a longer SentencePiece token cannot be, and would take a minute to split


@dataclass(frozen=True)
class Parts:
    """What one kind of vocabulary decides; bos and eos are its habit where the file is silent."""

    model: dict[str, Any]
    normalizer: dict[str, Any] | None
    pre_tokenizer: dict[str, Any] | None
    decoder: dict[str, Any]
    first: str | None  # name of the special token put before a text
    last: str | None


def _byte_level(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Parts:
    """Byte-level BPE as GPT-2 has it: merges by rank, the pre-tokenizer by name."""
    row = pre_tokenizer(setting(metadata, "pre", "default"))
    index = vocabulary.index()
    merges: list[list[str]] = []
    for rank, merge in enumerate(strings(metadata, "merges")):
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if cut < 0 or not {left, right, left + right} <= index.keys():
            refuse("merges", f"holds {merge!r} at {rank}, which does not join two tokens to a third")
        merges.append([left, right])
    if not merges:
        refuse("merges", "is missing or empty")
    return Parts(
        model=_bpe(index, merges, ignore_merges=row.ignore_merges),
        normalizer={"type": "NFC"} if row.nfc else None,
        pre_tokenizer=split_json(row),
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        first=_ends(metadata, vocabulary, "bos_token", row.add_bos),
        last=_ends(metadata, vocabulary, "eos_token", False),
    )


def _sentencepiece(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Parts:
    """SentencePiece BPE: the best-scored pair merges first, characters outside the vocabulary become bytes."""
    scores = _scores(metadata, vocabulary)
    prefix = setting(metadata, "add_space_prefix", True)
    unknown = vocabulary.token("unk_token") or next(
        (vocabulary.tokens[i] for i in vocabulary.of_type(TokenType.UNKNOWN)), None
    )
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    restore = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    decoders = [restore, {"type": "ByteFallback"}, {"type": "Fuse"}]
    # llama.cpp puts the space before each stretch of text between special tokens, as Prepend does.
    before = [{"type": "Prepend", "prepend": "\u2581"}] if prefix else []
    return Parts(
        model=_bpe(
            vocabulary.index(), _merges(vocabulary, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True
        ),
        normalizer={"type": "Sequence", "normalizers": [*before, replace]},
        pre_tokenizer=None,
        decoder={
            "type": "Sequence",
            "decoders": decoders + ([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
        },
        first=_ends(metadata, vocabulary, "bos_token", True),
        last=_ends(metadata, vocabulary, "eos_token", False),
    )


def _unigram(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Parts:
    """SentencePiece Unigram (T5, XLM-RoBERTa): the likeliest cut by token scores."""
    scores = _scores(metadata, vocabulary)
    unknown = vocabulary.ids.get("unk_token", next(iter(vocabulary.of_type(TokenType.UNKNOWN)), None))
    if unknown is None:
        refuse("unknown_token_id", "is missing, and a Unigram vocabulary needs it")
    scheme = "always" if setting(metadata, "add_space_prefix", True) else "never"
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": True}
    normalizers: list[dict[str, Any]] = []
    if charsmap := _charsmap(metadata):
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    if setting(metadata, "remove_extra_whitespaces", False):
        ends = {"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""}
        normalizers += [ends, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    pieces = [list(piece) for piece in zip(vocabulary.tokens, scores, strict=True)]
    fallback = bool(vocabulary.of_type(TokenType.BYTE))
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, space]} if fallback else space
    return Parts(
        model={"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": fallback},
        normalizer={"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        pre_tokenizer=space,
        decoder=decoder,
        first=_ends(metadata, vocabulary, "bos_token", False),
        last=_ends(metadata, vocabulary, "eos_token", True),
    )


def _wordpiece(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Parts:
    """BERT's WordPiece. A GGUF marks the start of a word with U+2581 where vocab.txt marks the rest with ##."""
    words = [
        token if kind in (TokenType.CONTROL, TokenType.UNKNOWN) or (token[0], token[-1]) == ("[", "]") else _word(token)
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    index = {word: i for i, word in enumerate(words)}
    if len(index) != len(words):
        refuse("tokens", "lists a WordPiece token twice")
    unknown = vocabulary.token("unk_token") or "[UNK]"
    if unknown not in index:
        refuse("unknown_token_id", "is missing, and there is no [UNK] token")
    cls = "cls_token" if "cls_token" in vocabulary.ids else "bos_token"
    lowercase = setting(metadata, "normalizer.lowercase", True)
    return Parts(
        model={
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": index,
        },
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": setting(metadata, "normalizer.strip_accents", lowercase),
            "lowercase": lowercase,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        first=_ends(metadata, vocabulary, cls, True),
        last=_ends(metadata, vocabulary, "sep_token", True),
    )


def _ends(metadata: Mapping[str, Any], vocabulary: Vocabulary, name: str, habit: bool) -> str | None:
    """The special token put at an end of a text, by the file's flag or else by habit."""
    wanted = setting(metadata, _FLAGS[name], habit)
    if wanted and name not in vocabulary.ids and f"tokenizer.ggml.{_FLAGS[name]}" in metadata:
        refuse(_FLAGS[name], f"is set, but the file names no {name}")
    return name if wanted and name in vocabulary.ids else None


def _bpe(index: dict[str, int], merges: list[list[str]], **options: Any) -> dict[str, Any]:
    defaults = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **defaults, **flags, **options, "vocab": index, "merges": merges}


def _scores(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> list[float]:
    scores = numbers(metadata, "scores", len(vocabulary.tokens))
    if scores is None:
        refuse("scores", "is missing, and this kind of vocabulary needs it")
    return scores


def _merges(vocabulary: Vocabulary, scores: list[float]) -> list[list[str]]:
    """Every way to join two pieces to a third, best score first; of the ways to one piece, the longest start first."""
    pieces = {vocabulary.tokens[i]: scores[i] for i in vocabulary.of_type(TokenType.NORMAL, TokenType.USER_DEFINED)}
    ranked: list[tuple[float, int, int, str, str]] = []
    for order, (piece, score) in enumerate(pieces.items()):
        if len(piece) > _LONGEST_PIECE:
            refuse("tokens", f"holds a piece of {len(piece):,} characters")
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                ranked.append((-score, -cut, order, left, right))
    return [[left, right] for *_, left, right in sorted(ranked)]


def _charsmap(metadata: Mapping[str, Any]) -> bytes:
    """SentencePiece's normalization table: a length, a trie of 32-bit units, and text. The library panics at others."""
    table = octets(metadata, "precompiled_charsmap")
    trie = int.from_bytes(table[:4], "little")
    try:
        text = table[4 + trie :].decode()
    except UnicodeDecodeError:
        text = ""
    if table and (trie % 4 or not text):
        refuse("precompiled_charsmap", "is no normalization table")
    return table


def _word(token: str) -> str:
    return token[1:] if token.startswith("\u2581") else "##" + token


# The flag that says whether a special token is put at an end of a text.
_FLAGS = MappingProxyType(
    {
        "bos_token": "add_bos_token",
        "cls_token": "add_bos_token",
        "eos_token": "add_eos_token",
        "sep_token": "add_sep_token",
    }
)

# tokenizer.ggml.model -> its function.
KINDS: Mapping[str, Callable[[Mapping[str, Any], Vocabulary], Parts]] = MappingProxyType(
    {"gpt2": _byte_level, "llama": _sentencepiece, "t5": _unigram, "bert": _wordpiece}
)
