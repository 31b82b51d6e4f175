"""The kinds of vocabulary a GGUF can hold, one function each: a Vocabulary in, the parts of tokenizer.json it decides out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from edgelm_export.checkpoint.gguf_pre_tokenizers import pre_tokenizer, split_json
from edgelm_export.checkpoint.gguf_vocabulary import TokenType, Vocabulary, numbers, octets, refuse, setting, strings
from edgelm_export.checkpoint.tokenizer_parts import (
    SPACE,
    WORDPIECE_DECODER,
    bert_normalizer,
    bpe,
    byte_level,
    bytes_and_spaces,
    is_charsmap,
    merges_by_score,
    metaspace,
    precompiled,
    replace,
    sequence,
    split_merges,
    unigram,
    wordpiece,
)


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
    merges = split_merges(strings(metadata, "merges"), index, partial(refuse, "merges"))
    if not merges:
        refuse("merges", "is missing or empty")
    return Parts(
        model=bpe(index, merges, ignore_merges=row.ignore_merges),
        normalizer={"type": "NFC"} if row.nfc else None,
        pre_tokenizer=split_json(row),
        decoder=byte_level(prefix=True),
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
    # llama.cpp puts the space before each stretch of text between special tokens, as Prepend does.
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    return Parts(
        model=bpe(
            vocabulary.index(), _merges(vocabulary, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True
        ),
        normalizer=sequence("normalizers", [*before, replace(" ", SPACE)]),
        pre_tokenizer=None,
        decoder=bytes_and_spaces(prefix=prefix),
        first=_ends(metadata, vocabulary, "bos_token", True),
        last=_ends(metadata, vocabulary, "eos_token", False),
    )


def _unigram(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Parts:
    """SentencePiece Unigram (T5, XLM-RoBERTa): the likeliest cut by token scores."""
    scores = _scores(metadata, vocabulary)
    unknown = vocabulary.ids.get("unk_token", next(iter(vocabulary.of_type(TokenType.UNKNOWN)), None))
    if unknown is None:
        refuse("unknown_token_id", "is missing, and a Unigram vocabulary needs it")
    space = metaspace("always" if setting(metadata, "add_space_prefix", True) else "never")
    normalizers: list[dict[str, Any]] = []
    if charsmap := _charsmap(metadata):
        normalizers.append(precompiled(charsmap))
    if setting(metadata, "remove_extra_whitespaces", False):
        normalizers += [replace("^ +| +$", "", regex=True), replace(" {2,}", " ", regex=True)]
    pieces = list(zip(vocabulary.tokens, scores, strict=True))
    fallback = bool(vocabulary.of_type(TokenType.BYTE))
    return Parts(
        model=unigram(pieces, unknown, byte_fallback=fallback),
        normalizer=sequence("normalizers", normalizers) if normalizers else None,
        pre_tokenizer=space,
        decoder=sequence("decoders", [{"type": "ByteFallback"}, space]) if fallback else space,
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
        model=wordpiece(index, unknown),
        normalizer=bert_normalizer(
            lowercase=lowercase, strip_accents=setting(metadata, "normalizer.strip_accents", lowercase)
        ),
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder=WORDPIECE_DECODER,
        first=_ends(metadata, vocabulary, cls, True),
        last=_ends(metadata, vocabulary, "sep_token", True),
    )


def _ends(metadata: Mapping[str, Any], vocabulary: Vocabulary, name: str, habit: bool) -> str | None:
    """The special token put at an end of a text, by the file's flag or else by habit."""
    wanted = setting(metadata, _FLAGS[name], habit)
    if wanted and name not in vocabulary.ids and f"tokenizer.ggml.{_FLAGS[name]}" in metadata:
        refuse(_FLAGS[name], f"is set, but the file names no {name}")
    return name if wanted and name in vocabulary.ids else None


def _scores(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> list[float]:
    scores = numbers(metadata, "scores", len(vocabulary.tokens))
    if scores is None:
        refuse("scores", "is missing, and this kind of vocabulary needs it")
    return scores


def _merges(vocabulary: Vocabulary, scores: list[float]) -> list[list[str]]:
    joinable = vocabulary.of_type(TokenType.NORMAL, TokenType.USER_DEFINED)
    return merges_by_score({vocabulary.tokens[i]: scores[i] for i in joinable}, partial(refuse, "tokens"))


def _charsmap(metadata: Mapping[str, Any]) -> bytes:
    table = octets(metadata, "precompiled_charsmap")
    if table and not is_charsmap(table):
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
