r"""How a byte-level vocabulary cuts text before its merges apply: tokenizer.ggml.pre in, a row of the table out.

A GGUF names its pre-tokenizer only; what a name stands for is written in llama.cpp (src/llama-vocab.cpp, 2026). The
patterns here are those of the models' own tokenizer.json, which llama.cpp adapts to its regex engine. Several patterns
apply one after the other, each to the pieces the one before left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from edgelm.errors import UnsupportedConfig
from edgelm_export.checkpoint.tokenizer_parts import byte_level, sequence


@dataclass(frozen=True)
class PreTokenizer:
    """What a pre-tokenizer name implies beside its patterns."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a piece that is a token is taken whole
    add_bos: bool = False  # unless the file says otherwise
    nfc: bool = False  # the model's own tokenizer composes characters first; llama.cpp leaves that out


def pre_tokenizer(name: str) -> PreTokenizer:
    """The row for a tokenizer.ggml.pre.

    Raises:
        UnsupportedConfig: an unknown name; another pre-tokenizer in its place would give wrong ids without a sign.
    """
    if name not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedConfig(
            f"tokenizer.ggml.pre {name!r} is an unknown pre-tokenizer; known are {known}. "
            "Export from the model's folder in hub layout, which brings its own tokenizer.json"
        )
    return PRE_TOKENIZERS[name]


def split_json(row: PreTokenizer, *, prefix: bool = False) -> dict[str, Any]:
    """The row as tokenizer.json spells a pre-tokenizer; with `prefix` every piece starts with a space."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in row.patterns
    ]
    return sequence("pretokenizers", [*splits, byte_level(prefix=prefix, regex=False)])


# Cased letters as DeepSeek LLM's tokenizer.json lists them: code points, hexadecimal.
_CASED = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 "
    "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)


def _characters(ranges: str) -> str:
    spans = [span.split("-") for span in ranges.split()]
    return "[" + "".join("-".join(f"\\x{{{point}}}" for point in span) for span in spans) + "]"


_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HAN = _characters("4E00-9FA5 800-4E00 AC00-D7FF") + "+"


def _cased_words(after: str, digits: str) -> str:
    start = r"[^\r\n\p{L}\p{N}]?"
    words = (f"{start}{_UPPER}*{_LOWER}+{after}", f"{start}{_UPPER}+{_LOWER}*{after}")
    return "|".join((*words, digits, r" ?[^\s\p{L}\p{N}]+[\r\n/]*", _SPACES))


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = "|".join((_CONTRACTIONS, _WORD, r"\p{N}{1,3}", _SIGNS, _SPACES))
_QWEN2 = "|".join((_CONTRACTIONS, _WORD, r"\p{N}", _SIGNS, _SPACES))
_QWEN35 = "|".join(
    (_CONTRACTIONS, r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", r"\p{N}", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", _SPACES)
)
_SEED_CODER = "|".join((_CONTRACTIONS, _WORD, r"\p{N}{1}", r" ?[^\s\p{L}\p{N}\r\n]+", _SPACES))
_BAILING = "|".join(
    (r"'(?i:[sdmt]|ll|ve|re)", r"[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
)
_TEKKEN = _cased_words("", r"\p{N}")
_GPT4O = _cased_words(f"{_CONTRACTIONS}?", r"\p{N}{1,3}")
_BLOOM = r" ?[^(\s|.,!?" + _characters("2026 3002 FF0C 3001 964 6D4 60C")[1:-1] + r")]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    r"\s?" + _characters(_CASED) + "+",
    r"\s?" + _characters("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002") + "+",
    r"\s+$",
    _HAN,
    r"\p{N}",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    _characters("4E00-9FA5 3040-309F 30A0-30FF") + "+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES,
)


def _table(rows: Iterable[tuple[str, PreTokenizer]]) -> Mapping[str, PreTokenizer]:
    return MappingProxyType({name: row for names, row in rows for name in names.split()})


_GPT2_ROW = PreTokenizer((_GPT2,))
_DIGITS_ROW = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3_ROW = PreTokenizer((_LLAMA3,))
_QWEN2_ROW = PreTokenizer((_QWEN2,))

PRE_TOKENIZERS = _table(
    [
        # Files from before April 2024 name none; llama.cpp then cuts like this.
        ("default", PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))),
        ("gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert exaone4 jais trillion granite-docling", _GPT2_ROW),
        ("jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe", _GPT2_ROW),
        ("mpt olmo", replace(_GPT2_ROW, nfc=True)),
        ("smollm starcoder refact codeshell exaone minerva-7b mellum2", _DIGITS_ROW),
        ("command-r", replace(_DIGITS_ROW, nfc=True)),
        (
            "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
            replace(_LLAMA3_ROW, ignore_merges=True, add_bos=True),
        ),
        ("dbrx smaug-bpe chatglm-bpe", _LLAMA3_ROW),
        ("glm4 glm5", replace(_LLAMA3_ROW, ignore_merges=True)),
        ("qwen2", replace(_QWEN2_ROW, nfc=True)),
        ("deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", _QWEN2_ROW),
        ("qwen35", PreTokenizer((_QWEN35,), nfc=True)),
        ("tekken", PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True)),
        ("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer((_GPT4O,))),
        ("deepseek-llm", PreTokenizer(_DEEPSEEK_LLM)),
        ("deepseek-coder", PreTokenizer(_DEEPSEEK_CODER)),
        ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", PreTokenizer(_DEEPSEEK_V3)),
        ("falcon", PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"))),
        ("bloom poro-chat gpt3-finnish", PreTokenizer((_BLOOM,))),
        ("viking", PreTokenizer((_BLOOM, r"\p{N}"))),
        ("seed-coder", PreTokenizer((_SEED_CODER,))),
        ("bailingmoe bailingmoe2 llada-moe", PreTokenizer((_BAILING,))),
    ]
)
