"""Small slow-only checkpoints: nothing in, folders out that hold a config and a tokenizer's files but no tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from edgelm_export.evaluation import built_in_text
from tests.export.slow_files import ALPHABET, pairs, settings, words, write_all

# Beside English, so that other scripts, accents and signs get pieces too.
_FOREIGN = (
    "Le gar\u00e7on d\u00e9j\u00e0 vu \u00e0 l'\u00e9cole, na\u00efve \u0153uvre",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440, \u043a\u0430\u043a \u0434\u0435\u043b\u0430?",
    "\u4f60\u597d \u4e16\u754c \u4eca\u5929 \u5929\u6c14 \u5f88 \u597d",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059",
    "Gr\u00f6\u00dfe Stra\u00dfe \u00dcbung \U0001f600 \U0001f44d",
    "1,000 2,345 9,9 3.14 (a) \"b\" - c the The THE it's don't we're I'VE",
)
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = (
    *(
        "the",
        "a",
        "dog",
        "cat",
        "s",
        "##s",
        "##es",
        "fox",
        "un",
        "##happy",
        ",",
        ".",
        "!",
        "?",
        "'",
        "-",
        "(",
        ")",
        "don",
    ),
    *(
        "1",
        "2",
        "3",
        "##1",
        "##2",
        "##3",
        "e",
        "##e",
        "caf",
        "cafe",
        "##\u00e9",
        "caf\u00e9",
        "\u4f60",
        "\u597d",
        "\u4e16",
    ),
    *("\u00e4", "##a", "##b", "b", "c", "##c", "x", "##x", "y", "t", "it"),
)
_MERGES = (
    *(
        "\u0120 t",
        "h e",
        "\u0120t he",
        "1 2",
        "12 3",
        "\u010a \u010a",
        "\u0120 \u0120",
        "i n",
        "a n",
        "r e",
        "\u0120 a",
    ),
    *("o n", "e r", "\u00c3 \u00a9"),
)
_JOINED = [merge.replace(" ", "") for merge in _MERGES]
_END = len(_BERT) + len(_WORDS)  # the first id after the vocabulary
_SENTINELS = [f"<extra_id_{i}>" for i in range(100)]

Files = dict[str, bytes]


@dataclass(frozen=True)
class Slow:
    """A checkpoint: its model type, the files of its vocabulary, and what its tokenizer_config.json says."""

    model_type: str
    files: Callable[[Path], Files]  # from a folder where work may be done
    settings: Mapping[str, Any] | None = None  # None: there is no such file
    others: Mapping[str, Any] | None = None  # further JSON files: name -> value

    def write(self, folder: Path) -> Path:
        """Writes it into a folder."""
        files = {"config.json": json.dumps({"model_type": self.model_type}).encode(), **self.files(folder.parent)}
        files |= {} if self.settings is None else settings(**self.settings)
        files |= {name: json.dumps(value).encode() for name, value in (self.others or {}).items()}
        return write_all(folder, files)


def added(content: str, **flags: bool) -> dict[str, Any]:
    """A token as added_tokens_decoder spells it."""
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


def _wordpiece(*special: str) -> Callable[[Path], Files]:
    return lambda _: words(*special, *_WORDS)


def byte_level(*first: str, last: tuple[str, ...] = ()) -> Callable[[Path], Files]:
    return lambda _: pairs([*first, *ALPHABET, *_JOINED, *last], _MERGES)


def _word_ends(_: Path) -> Files:
    """The first GPT's: a letter that ends a word is a token of its own."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    merges = ("t h", "th e</w>", "h e</w>", "i n", "in g</w>", "o n</w>", "1 2", "r e", "d o", "a n", "an d</w>")
    joined = [merge.replace(" ", "") for merge in merges]
    return pairs(["<unk>", *letters, *(f"{letter}</w>" for letter in letters), *joined], merges)


def trained(name: str, *, english: bool = True, **options: Any) -> Callable[[Path], Files]:
    """A SentencePiece model learned on the spot, of 700 pieces, from English and other text or without the English."""

    def files(folder: Path) -> Files:
        corpus, prefix = folder / "corpus.txt", folder / "trained"
        lines = [*built_in_text().text.splitlines(), *_FOREIGN * 5] if english else _FOREIGN * 20
        corpus.write_text("\n".join(lines), encoding="utf-8")
        defaults = {"vocab_size": 700, "character_coverage": 0.9995, "hard_vocab_limit": False, "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.Train(
            input=str(corpus), model_prefix=str(prefix), **{**defaults, "model_type": "unigram", **options}
        )
        return {name: prefix.with_suffix(".model").read_bytes()}

    return files


_roberta = byte_level(*_FAIRSEQ, last=("<mask>",))
_qwen = byte_level()
_xlm_roberta = trained("sentencepiece.bpe.model")
_albert = trained(
    "spiece.model",
    pad_id=0,
    unk_id=1,
    bos_id=-1,
    eos_id=-1,
    control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    user_defined_symbols=["(", ")"],
)
_deberta_v2 = trained(
    "spm.model",
    pad_id=0,
    bos_id=1,
    eos_id=2,
    unk_id=3,
    pad_piece="[PAD]",
    bos_piece="[CLS]",
    eos_piece="[SEP]",
    unk_piece="[UNK]",
)
_t5 = trained("spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
_llama = trained(
    "tokenizer.model",
    vocab_size=900,
    model_type="bpe",
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
)
_ends = {
    str(len(ALPHABET) + len(_JOINED) + i): added(token)
    for i, token in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
}

CHECKPOINTS = {
    "bert": Slow("bert", _wordpiece(*_BERT)),
    "bert-cased": Slow("bert", _wordpiece(*_BERT), {"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
    "bert-added": Slow("bert", _wordpiece(*_BERT), {}, {"added_tokens.json": {"[NEW]": _END, "Foo": _END + 1}}),
    "bert-flags": Slow(
        "bert",
        _wordpiece(*_BERT),
        {
            "tokenizer_class": "BertTokenizer",
            "added_tokens_decoder": {
                **{str(i): added(token) for i, token in enumerate(_BERT)},
                str(_END): added("the cat", special=False, normalized=True),
                str(_END + 1): added("dogs", special=False, single_word=True),
            },
        },
    ),
    "distilbert": Slow("distilbert", _wordpiece(*_BERT), {"strip_accents": False}),
    "electra": Slow("electra", _wordpiece(*_BERT), {"tokenizer_class": "ElectraTokenizer", "tokenize_chinese_chars": False}),
    "mpnet": Slow("mpnet", _wordpiece(*_FAIRSEQ, "[UNK]", "<mask>"), {"tokenizer_class": "MPNetTokenizer"}),
    "roberta": Slow("roberta", _roberta, {"tokenizer_class": "RobertaTokenizer"}),
    "roberta-prefix": Slow("roberta", _roberta, {"add_prefix_space": True, "trim_offsets": False}),
    "roberta-wide-mask": Slow(
        "roberta", _roberta, {}, {"special_tokens_map.json": {"mask_token": {**added("<mask>", lstrip=True)}}}
    ),
    "bart": Slow("bart", _roberta),
    "openai-gpt": Slow("openai-gpt", _word_ends),
    "codegen": Slow("codegen", byte_level(last=("<|endoftext|>",)), {"tokenizer_class": "CodeGenTokenizer"}),
    "gpt2": Slow("gpt2", byte_level(last=("<|endoftext|>",)), {"add_bos_token": True}),
    "deberta": Slow("deberta", byte_level("[PAD]", "[CLS]", "[SEP]", "[UNK]", last=("[MASK]",))),
    "qwen2": Slow(
        "qwen2",
        _qwen,
        {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": _ends, "eos_token": "<|im_end|>", "bos_token": None},
    ),
    "xlm-roberta": Slow("xlm-roberta", _xlm_roberta),
    "camembert": Slow("camembert", trained("sentencepiece.bpe.model"), {"tokenizer_class": "CamembertTokenizer"}),
    "albert": Slow("albert", _albert),
    "albert-cased": Slow("albert", _albert, {"do_lower_case": False, "keep_accents": True}),
    "deberta-v2": Slow("deberta-v2", _deberta_v2, {"do_lower_case": False, "vocab_type": "spm"}),
    "deberta-v2-punctuation": Slow("deberta-v2", _deberta_v2, {"do_lower_case": True, "split_by_punct": True}),
    "t5": Slow("t5", _t5, {"tokenizer_class": "T5Tokenizer"}),
    "t5-as-saved": Slow("t5", _t5, {"extra_ids": 100, "additional_special_tokens": _SENTINELS}),
    "llama": Slow("llama", _llama, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False}),
    "llama-silent": Slow("llama", _llama, {"tokenizer_class": "LlamaTokenizer", "legacy": False}),
    "llama-legacy": Slow("llama", _llama, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": True}),
}  # fmt: skip
