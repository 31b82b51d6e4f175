"""The files of a slow tokenizer in, tokenizer.json out, with the ids the model was trained with.

A slow tokenizer is a vocabulary (vocab.txt, vocab.json with merges.txt, or a SentencePiece model) whose meaning a class
of transformers knows. `FAMILIES` holds those classes; the rest of the format is in the files beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgelm.errors import CorruptFile, UnsupportedConfig
from edgelm_export.checkpoint import slow_tokenizer_families as families
from edgelm_export.checkpoint import slow_tokenizer_seq2seq as seq2seq
from edgelm_export.checkpoint.files import shown
from edgelm_export.checkpoint.slow_tokenizer_files import SENTENCEPIECE_FILES, SlowFiles, open_slow_files
from edgelm_export.checkpoint.slow_tokenizer_parts import Parts
from edgelm_export.checkpoint.slow_tokenizer_tokens import Token, Tokens, place, read_tokens
from edgelm_export.checkpoint.tokenizer_parts import Json, Step, Text, template, tokenizer_json

VOCABULARIES = ("vocab.txt", "vocab.json", *SENTENCEPIECE_FILES)
# What is read beside tokenizer_config.json.
SLOW_FILES = (*VOCABULARIES, "merges.txt", "added_tokens.json", "source.spm", "target.spm", "target_vocab.json")

# Name -> the token and its id; raises where there is none.
_Lookup = Callable[[str], tuple[str, int]]
_Builder = Callable[[SlowFiles, Tokens], Parts]


@dataclass(frozen=True)
class Family:
    """A tokenizer class of transformers. `single` and `pair` are the special tokens by name, around the texts A and B.

    A step is a name or a text, with its type id after a colon where that is not 0; "bos?" counts where the setting
    add_bos_token says so, "bos!" unless it says no; "src_lang" is the language of the setting.
    """

    build: _Builder
    single: str
    pair: str
    tokens: Mapping[str, Token] = field(default_factory=dict)  # where the files are silent
    trimmed: bool = False  # RoBERTa's own instead: two separators between the texts, offsets without spaces
    language: str = ""  # what src_lang is where the files are silent
    spelled: str = "{}"  # how a language is spelled as a token
    legacy: str = ""  # instead of `single` where legacy_behaviour says so
    target: _Builder | None = None  # for target text, where that is cut otherwise


def convert(folder: Path, content: Mapping[str, bytes], config: Mapping[str, Any]) -> dict[str, bytes]:
    """Builds tokenizer.json, and tokenizer_target.json where target text is cut otherwise: name -> content.

    Args:
        folder: for messages.
        content: name -> content of the tokenizer's files in it; others are ignored.
        config: the raw config.json, whose model_type counts where tokenizer_config.json names no class.

    Raises:
        UnsupportedConfig: a class that is not known here, or one that the files do not go with.
        CorruptFile: a file that is missing, damaged, or contradicts another.
    """
    files = open_slow_files(folder, content)
    family = _family(files, config)
    texts = {"tokenizer.json": _build(files, family, family.build, config.get("vocab_size"))}
    if family.target is not None:
        size = config.get("decoder_vocab_size", config.get("vocab_size"))
        texts["tokenizer_target.json"] = _build(files, family, family.target, size)
    return texts


def _build(files: SlowFiles, family: Family, build: _Builder, size: Any) -> bytes:
    tokens = read_tokens(files, family.tokens)
    parts = build(files, tokens)
    limit = size if type(size) is int else None
    added, ids = place(files.folder / "tokenizer_config.json", tokens, parts.matched, parts.index, limit)
    named = dict(tokens.named)
    if family.language:
        named["src_lang"] = Token(family.spelled.format(files.setting("src_lang", family.language)))

    def lookup(name: str) -> tuple[str, int]:
        token = named.get(name)
        if token is None or token.content not in ids:
            what = f"there is no {name}" if token is None else f"{name} {shown(token.content)} is not in the vocabulary"
            raise CorruptFile(
                f"{files.folder}: {what}, and this tokenizer class puts it around every text; name the right one in "
                "tokenizer_config.json"
            )
        return token.content, ids[token.content]

    around = _trimmed(files, lookup) if family.trimmed else _around(files, family, tokens, lookup)
    return tokenizer_json(
        {
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": around,
            "decoder": parts.decoder,
            "model": parts.model,
        },
        added,
    )


def _family(files: SlowFiles, config: Mapping[str, Any]) -> Family:
    model_type = config.get("model_type")
    named = files.setting("tokenizer_class", "") or config.get("tokenizer_class")
    name = named.removesuffix("Fast") if isinstance(named, str) else ""
    if not name or name in _NO_CLASS:
        name = MODEL_TYPES.get(model_type, "") if isinstance(model_type, str) else ""
    if name not in FAMILIES:
        given = f"tokenizer class {shown(named)}" if isinstance(named, str) and named else "tokenizer, without a class,"
        raise UnsupportedConfig(
            f"{files.folder} has no tokenizer.json, and its {given} for model type {shown(str(model_type))} is not among "
            f"those that can be converted: {', '.join(FAMILIES)}. Save the tokenizer in its fast form into that folder "
            "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    return FAMILIES[name]


def _around(files: SlowFiles, family: Family, tokens: Tokens, lookup: _Lookup) -> Json | None:
    ids: dict[str, int] = {}

    def steps(spec: str) -> list[Step]:
        found: list[Step] = []
        for part in spec.split():
            what, _, type_id = part.partition(":")
            if what in ("A", "B"):
                found.append((Text(what), int(type_id or 0)))
                continue
            name = what if what == "src_lang" else what.rstrip("?!") + "_token"
            if what[-1] in "?!" and not (name in tokens.named and files.setting(f"add_{name}", what.endswith("!"))):
                continue
            token, ids[token] = lookup(name)
            found.append((token, int(type_id or 0)))
        return found

    legacy = family.legacy if files.setting("legacy_behaviour", False) else ""
    single, pair = steps(legacy or family.single), steps(legacy.replace("A", "A B") or family.pair)
    return template(single, pair, ids) if ids else None


def _trimmed(files: SlowFiles, lookup: _Lookup) -> Json:
    """cls A sep, and cls A sep sep B sep."""
    return {
        "type": "RobertaProcessing",
        "sep": list(lookup("sep_token")),
        "cls": list(lookup("cls_token")),
        "trim_offsets": files.setting("trim_offsets", True),
        "add_prefix_space": files.setting("add_prefix_space", False),
    }


def _tokens(**texts: str) -> dict[str, Token]:
    return {f"{name}_token": Token(text) for name, text in texts.items()}


def _wide(mask: str) -> dict[str, Token]:
    """A mask that takes the space before it along, as the models were trained; transformers 5 forgets it in places."""
    return {"mask_token": Token(mask, flags={"lstrip": True})}


_BERT_TOKENS = _tokens(unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]")
_FAIRSEQ_TOKENS = _tokens(bos="<s>", eos="</s>", unk="<unk>", sep="</s>", pad="<pad>", cls="<s>") | _wide("<mask>")
_DEBERTA_TOKENS = _BERT_TOKENS | _tokens(bos="[CLS]", eos="[SEP]")

_BERT = ("cls A sep", "cls A sep B:1 sep:1")
_TWO_ENDS = ("bos A eos", "bos A eos eos B eos")
_BY_FLAGS = ("bos? A eos?", "bos? A eos? bos?:1 B:1 eos?:1")

_EOS = ("A eos", "A B eos")
_SOURCE_FIRST = ("src_lang A eos", "src_lang A B eos")
_SOURCE_LAST = ("A eos src_lang", "A B eos src_lang")

_bert = Family(families.word_piece, *_BERT, _BERT_TOKENS)
_roberta = Family(families.gpt2, "", "", _FAIRSEQ_TOKENS, trimmed=True)
_gpt2 = Family(families.gpt2, *_BY_FLAGS, _tokens(bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>"))
_t5 = Family(families.t5, "A eos", "A eos B eos", _tokens(eos="</s>", unk="<unk>", pad="<pad>"))

# Class -> how to read it. transformers' names, without Fast.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "BertTokenizer": _bert,
        "DistilBertTokenizer": _bert,
        "ElectraTokenizer": _bert,
        "MPNetTokenizer": Family(families.word_piece, "", "", _FAIRSEQ_TOKENS | _tokens(unk="[UNK]"), trimmed=True),
        "RobertaTokenizer": _roberta,
        "BartTokenizer": _roberta,
        # One separator between the texts, as the model was trained; transformers 5 puts two.
        "DebertaTokenizer": Family(families.gpt2, *_BERT, _DEBERTA_TOKENS | _wide("[MASK]")),
        "DebertaV2Tokenizer": Family(families.deberta_v2, *_BERT, _DEBERTA_TOKENS),
        "AlbertTokenizer": Family(
            families.albert, *_BERT, _DEBERTA_TOKENS | _tokens(unk="<unk>", pad="<pad>") | _wide("[MASK]")
        ),
        "XLMRobertaTokenizer": Family(families.xlm_roberta, *_TWO_ENDS, _FAIRSEQ_TOKENS),
        "CamembertTokenizer": Family(families.camembert, *_TWO_ENDS, _FAIRSEQ_TOKENS),
        "T5Tokenizer": _t5,
        "MT5Tokenizer": _t5,
        "OpenAIGPTTokenizer": Family(families.openai_gpt, "", "", _tokens(unk="<unk>")),
        "GPT2Tokenizer": _gpt2,
        "CodeGenTokenizer": _gpt2,
        "Qwen2Tokenizer": Family(
            families.qwen2, *_BY_FLAGS, _tokens(eos="<|endoftext|>", unk="<|endoftext|>", pad="<|endoftext|>")
        ),
        # A text starts with bos, as the models were trained; transformers 5 wants add_bos_token to say so.
        "LlamaTokenizer": Family(
            families.llama, "bos! A eos?", "bos! A eos? bos!:1 B:1 eos?:1", _tokens(bos="<s>", eos="</s>", unk="<unk>")
        ),
        "MBartTokenizer": Family(seq2seq.mbart, *_SOURCE_LAST, _FAIRSEQ_TOKENS, language="en_XX"),
        "MBart50Tokenizer": Family(seq2seq.mbart50, *_SOURCE_FIRST, _FAIRSEQ_TOKENS, language="en_XX"),
        "NllbTokenizer": Family(
            seq2seq.nllb, *_SOURCE_FIRST, _FAIRSEQ_TOKENS, language="eng_Latn", legacy="A eos src_lang"
        ),
        "M2M100Tokenizer": Family(
            seq2seq.m2m_100,
            *_SOURCE_FIRST,
            _tokens(bos="<s>", eos="</s>", sep="</s>", pad="<pad>", unk="<unk>"),
            language="en",
            spelled="__{}__",
        ),
        "MarianTokenizer": Family(
            seq2seq.marian, *_EOS, _tokens(eos="</s>", unk="<unk>", pad="<pad>"), target=seq2seq.marian_target
        ),
        "PegasusTokenizer": Family(
            seq2seq.pegasus, *_EOS, _tokens(eos="</s>", unk="<unk>", pad="<pad>", mask="<mask_2>")
        ),
        # transformers 5 forgets eos.
        "BlenderbotTokenizer": Family(families.blenderbot, *_EOS, _FAIRSEQ_TOKENS),
        "BlenderbotSmallTokenizer": Family(
            seq2seq.blenderbot_small, "", "", _tokens(bos="__start__", eos="__end__", unk="__unk__", pad="__null__")
        ),
    }
)

# Classes that say nothing about the files.
_NO_CLASS = ("PreTrainedTokenizer", "TokenizersBackend")

# model_type -> class where tokenizer_config.json names none, as the oldest folders do.
MODEL_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "albert": "AlbertTokenizer",
        "bart": "BartTokenizer",
        "bert": "BertTokenizer",
        "blenderbot": "BlenderbotTokenizer",
        "blenderbot-small": "BlenderbotSmallTokenizer",
        "camembert": "CamembertTokenizer",
        "codegen": "CodeGenTokenizer",
        "deberta": "DebertaTokenizer",
        "deberta-v2": "DebertaV2Tokenizer",
        "distilbert": "DistilBertTokenizer",
        "electra": "ElectraTokenizer",
        "gpt2": "GPT2Tokenizer",
        "gpt_bigcode": "GPT2Tokenizer",
        "gpt_neo": "GPT2Tokenizer",
        "gptj": "GPT2Tokenizer",
        "llama": "LlamaTokenizer",
        "longt5": "T5Tokenizer",
        "m2m_100": "M2M100Tokenizer",
        "marian": "MarianTokenizer",
        "mbart": "MBartTokenizer",
        "mistral": "LlamaTokenizer",
        "mpnet": "MPNetTokenizer",
        "mt5": "T5Tokenizer",
        "openai-gpt": "OpenAIGPTTokenizer",
        "opt": "GPT2Tokenizer",
        "pegasus": "PegasusTokenizer",
        "phi": "CodeGenTokenizer",
        "qwen2": "Qwen2Tokenizer",
        "qwen3": "Qwen2Tokenizer",
        "roberta": "RobertaTokenizer",
        "t5": "T5Tokenizer",
        "umt5": "T5Tokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
    }
)
