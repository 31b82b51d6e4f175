"""A small tokenizer of every kind that checkpoints bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and it doesn't mind.",
    "I 'm sure . We 've seen it , haven 't we ? They 're here !",
    "caf\u00e9 na\u00efve \u4f60\u597d\u4e16\u754c \U0001f600 12345",
    "def f(x):\n    return x + 1\n",
] * 3
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(["<think>", "two words"])
    return backend


def sentencepiece() -> Backend:
    """As Llama 2: byte fallback, and a space put before the text that decoding takes away again."""
    letters = sorted({character for line in CORPUS for character in line.replace(" ", "\u2581")} - {"\n"})[:60]
    tokens = [
        *SPECIAL,
        *BYTES,
        "\u2581",
        *(letter for letter in letters if letter != "\u2581"),
        "\u2581t",
        "\u2581th",
        "ox",
    ]
    merges = [("\u2581", "t"), ("\u2581t", "h"), ("o", "x")]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    members = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(members)
    backend.add_special_tokens(SPECIAL)
    return backend


def wordpiece() -> Backend:
    backend = Backend(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def unigram() -> Backend:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("\u2581", -2.0), ("\u2581the", -3.0)]
    pieces += [(character, -4.0 - i / 100) for i, character in enumerate("abcdefghijklmnopqrstuvwxyz,.!?'")]
    backend = Backend(models.Unigram(pieces, 0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(SPECIAL)
    return backend


def clipped() -> Backend:
    """GPT's first tokenizer: a suffix marks the end of a word."""
    backend = Backend(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def without_decoder() -> Backend:
    backend = wordpiece()
    backend.decoder = None  # type: ignore[assignment]
    return backend


def ctc() -> Backend:
    """A decoder that looks at all tokens at once."""
    backend = unigram()
    backend.decoder = decoders.CTC(pad_token="<s>", word_delimiter_token="\u2581")
    return backend


def unusual() -> Backend:
    """Replacements after the pieces are joined, which may match across tokens."""
    backend = sentencepiece()
    members = [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("ox", "ax"), decoders.Strip("\u2581", 2, 0)]
    backend.decoder = decoders.Sequence(members)
    return backend


KINDS: Mapping[str, Callable[[], Backend]] = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "clipped": clipped,
    "without decoder": without_decoder,
    "ctc": ctc,
    "unusual": unusual,
}

# Those whose decoders read several tokens at once, or look at whether one is the last.
INSEPARABLE = ("clipped", "ctc", "unusual")
