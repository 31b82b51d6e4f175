"""The parts of a tokenizer.json as dictionaries, whatever kind of file the vocabulary came from."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NoReturn

import numpy as np

from edgelm_export.checkpoint.files import shown

Json = dict[str, Any]

SPACE = "\u2581"  # how SentencePiece writes a space

_LONGEST_PIECE = 1024  # characters; a longer SentencePiece token cannot be, and would take a minute to split


def tokenizer_json(parts: Mapping[str, Any], added_tokens: Sequence[Json]) -> bytes:
    """The whole file. `parts`: normalizer, pre_tokenizer, post_processor, decoder and model, None where there is none."""
    keys = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added_tokens)}
    return to_json(head | {key: parts[key] for key in keys})


def to_json(value: Any) -> bytes:
    """JSON as UTF-8, the same bytes for the same value."""
    return json.dumps(value, ensure_ascii=False).encode()


def is_text(value: str) -> bool:
    """Halves of surrogate pairs stand for bytes that were no UTF-8; no file can hold them."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


# Models


def bpe(index: Mapping[str, int], merges: Sequence[Sequence[str]], **options: Any) -> Json:
    """Byte-pair encoding: token -> id, and the pairs to join, best first."""
    defaults = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **defaults, **flags, **options, "vocab": index, "merges": merges}


def unigram(pieces: Sequence[tuple[str, float]], unknown: int, *, byte_fallback: bool = False) -> Json:
    """The likeliest cut by scores: (piece, score) in id order, and the id of the unknown piece."""
    vocab = [list(piece) for piece in pieces]
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": byte_fallback}


def wordpiece(index: Mapping[str, int], unknown: str) -> Json:
    """BERT's longest match from the left; ## marks what is not the start of a word."""
    return {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": index,
    }


def split_merges(lines: Iterable[str], index: Mapping[str, int], refuse: Callable[[str], NoReturn]) -> list[list[str]]:
    """Merges as pairs; `refuse` raises for one that does not join two known tokens to a third."""
    merges: list[list[str]] = []
    for rank, merge in enumerate(lines):
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if cut < 0 or not {left, right, left + right} <= index.keys():
            refuse(f"holds {shown(merge)} at {rank}, which does not join two tokens to a third")
        merges.append([left, right])
    return merges


def merges_by_score(scores: Mapping[str, float], refuse: Callable[[str], NoReturn]) -> list[list[str]]:
    """Every way to join two pieces to a third, best score first; of the ways to one piece, the longest start first."""
    ranked: list[tuple[float, int, int, str, str]] = []
    for order, (piece, score) in enumerate(scores.items()):
        if len(piece) > _LONGEST_PIECE:
            refuse(f"holds a piece of {len(piece):,} characters")
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, -cut, order, left, right))
    return [[left, right] for *_, left, right in sorted(ranked)]


# Normalizers, pre-tokenizers, decoders


def sequence(kind: str, steps: Sequence[Json]) -> Json:
    """Steps one after the other; `kind` is the key that holds them: normalizers, pretokenizers or decoders."""
    return {"type": "Sequence", kind: list(steps)}


def bert_normalizer(*, lowercase: bool, strip_accents: bool | None, chinese: bool = True) -> Json:
    """BERT's; without a word on accents they go where letters become lower case."""
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": chinese,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }


def replace(pattern: str, content: str, *, regex: bool = False) -> Json:
    """Puts `content` for each occurrence; a normalizer as well as a decoder."""
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


def precompiled(charsmap: bytes) -> Json:
    """SentencePiece's own table of characters, checked by `is_charsmap`."""
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}


def metaspace(scheme: str, *, split: bool = True) -> Json:
    """Spaces as U+2581, one more before the text; `scheme` is always, first (not after special tokens) or never."""
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def byte_level(*, prefix: bool, regex: bool = True) -> Json:
    """Bytes as printable characters; with `regex` cut as GPT-2 does. Pre-tokenizer and decoder alike."""
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def bytes_and_spaces(*, prefix: bool) -> Json:
    """Decoder of SentencePiece BPE: spaces and bytes come back, and the space before the text goes."""
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return sequence("decoders", [replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, *strip])


WORDPIECE_DECODER: Json = {"type": "WordPiece", "prefix": "##", "cleanup": True}


# Special tokens


class Text(Enum):
    """Where the text goes, or the two of a pair."""

    A = "A"
    B = "B"


Step = tuple[str | Text, int]  # a special token or a text, and its type id


def template(single: Sequence[Step], pair: Sequence[Step], ids: Mapping[str, int]) -> Json:
    """Special tokens around one text or two; `ids` are those of the tokens named."""

    def step(what: str | Text, type_id: int) -> Json:
        if isinstance(what, Text):
            return {"Sequence": {"id": what.value, "type_id": type_id}}
        return {"SpecialToken": {"id": what, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [step(*part) for part in single],
        "pair": [step(*part) for part in pair],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()},
    }


def added_token(token_id: int, content: str, *, special: bool, **flags: bool) -> Json:
    """A token that is matched as a whole in the text; decoded text leaves special ones out."""
    given = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False} | flags
    return {"id": token_id, "content": content, **given, "special": special}


# SentencePiece's normalization table


def is_charsmap(table: bytes) -> bool:
    """Whether a normalization table can be searched: the library panics at others, when opening or at some text.

    A length, a trie of 32-bit units (Darts-clone: offset, whether a value follows, and the byte that leads here), and
    the replacements it points into, each ended by a zero.
    """
    size = int.from_bytes(table[:4], "little")
    text = table[4 + size :]
    if size == 0 or size % 1024 or not text or not _is_utf8(text):
        return False
    units = np.frombuffer(table, "<u4", size // 4, 4).astype(np.int64)
    inner = units < 1 << 31  # the others are values
    inner[0] = True  # the root is entered without a look at what it is
    nodes = units[inner]
    following = np.flatnonzero(inner) ^ (
        (nodes >> 10) << ((nodes & 0x200) >> 6)
    )  # the next byte changes its low 8 bits
    if (following >= len(units)).any():
        return False
    values = units[following[(nodes & 0x100) != 0]] & 0x7FFFFFFF
    starts = np.frombuffer(text, np.uint8)
    return bool((values < len(text)).all() and (starts[values] & 0xC0 != 0x80).all())


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
