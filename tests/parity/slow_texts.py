"""Texts that slow tokenizers are compared on: odd ones written by hand, and drawn ones."""

from __future__ import annotations

import random
import re
import unicodedata

FIXED = [
    *("", " ", "  ", "a", "\n", " the", "the ", "The cat, the dog!", "HELLO World THE DOG's", "A" * 120, "the " * 40),
    *("  leading and   double  spaces ", "tabs\tand\nnewlines\r\n\r\n x", "\t the", "\x00\x01\x07 control \x7f\x80\x85"),
    *("caf\u00e9 cafe\u0301 \u00c4\u00d6\u00dc \u00df", "a\u0301\u0302\u0303", "\u0130stanbul \u0131", "\u1e9e \u01c4"),
    *("\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4", "\u0627\u0644\u0639 \u05e2\u05d1"),
    *("\U0001f600\U0001f44d\U0001f3fd \u2764\ufe0f", "\u00a0nbsp\u00a0\u200bzwsp\u3000ideo\u2003em", "x\u2028y\u2029z"),
    *("\ufb01 \uff21\uff22 \u2460 \u00bd \u2026 \u2122", "\u00ad soft\u00adhyphen", "\ufffd", "\u2581under \u2581"),
    *("don't we'll I'VE it's", "1,000 9, 12345 3.14", "``quoted'' \u201ccurly\u201d", '(a) "b" - c', "aaaa aaaaaaa ---- ..."),
    *("[CLS] a [SEP] b [MASK] [UNK] [PAD]", "<s>x</s> <pad> <mask> <unk> a<mask>b  <mask> ", "<S> [cls] [Mask]"),
    *("<|endoftext|> <|im_start|>user\n<|im_end|>", "<extra_id_0> <extra_id_99> x<extra_id_1>y", "<0x41> <0x0A>"),
    *("<s>NOTUSED </s>NOTUSED", "[NEW]x foo Foo", "The Cat sees dogs, thedogs"),
]  # fmt: skip
LETTERS = [*"abct the", *".,'-123", "\u00e9", "\u4f60", "\u00df", "\U0001f600", "the", "an", "on", "er"]
ODD = [
    *'  \t\n"()',
    "\u0301",
    "\u2581",
    "\u00a0",
    "\uff21",
    "<mask>",
    "[MASK]",
    "</s>",
    "[SEP]",
    "<|im_end|>",
    "<extra_id_3>",
]


def texts() -> list[str]:
    """All of them, the same at each call."""
    source = random.Random(0)
    odd = ["".join(source.choice([*LETTERS, *ODD]) for _ in range(source.randint(1, 25))) for _ in range(120)]
    plain = ["".join(source.choice(LETTERS) for _ in range(source.randint(1, 25))) for _ in range(120)]
    return [*FIXED, *odd, *plain]


def is_plain(text: str) -> bool:
    """Whether transformers 4 and 5 read the text alike.

    They differ in white space other than single spaces, in characters that NFKC changes, in tokens spelled out in the
    text but a mask (whether a space after it counts), in quotation marks, and in digits before a comma.
    """
    text = re.sub(r"<mask>|\[MASK\]", "x", text)
    odd = re.search(r"\s\s|^\s|\s$|[^\S ]|[<\[`\"\u2581\ufffd]|\d,", text)
    return odd is None and text.isprintable() and text == unicodedata.normalize("NFKC", text)
