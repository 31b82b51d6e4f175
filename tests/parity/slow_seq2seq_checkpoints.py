"""Small slow-only checkpoints of encoder-decoders: nothing in, folders out, as tests.parity.slow_checkpoints has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import sentencepiece

from edgelm_export.checkpoint.slow_tokenizer_languages import M2M_LANGUAGES
from tests.parity.slow_checkpoints import Files, Slow, added, byte_level, trained

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_BPE = {"model_type": "bpe", "remove_extra_whitespaces": True}
_fairseq = trained("sentencepiece.bpe.model")
_nllb = trained("sentencepiece.bpe.model", **_BPE)
_t5 = trained("spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
_sentinels = [f"<extra_id_{i}>" for i in range(20)]


def _pieces(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(len(processor)) if not processor.is_control(i)]


def _vocabulary(tokens: Iterable[str]) -> bytes:
    return json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))}).encode()


def _marian(*, separate: bool = False) -> Callable[[Path], Files]:
    """Two models and the ids of both, in an order that is neither's, with languages and <pad> at the end."""

    def files(folder: Path) -> Files:
        found = trained("source.spm")(folder) | trained("target.spm", english=False, vocab_size=300)(folder)
        source, target = (sorted(_pieces(found[name])) for name in ("source.spm", "target.spm"))
        if separate:
            found["target_vocab.json"] = _vocabulary(["</s>", "<unk>", *target, "<pad>"])
            return found | {"vocab.json": _vocabulary(["</s>", "<unk>", *source, "<pad>"])}
        pieces = sorted({*source, *target} - {"<unk>"})
        return found | {"vocab.json": _vocabulary(["</s>", "<unk>", *pieces, ">>fra<<", ">>zho_Hans<<", "<pad>"])}

    return files


def _m2m(model: Callable[[Path], Files]) -> Callable[[Path], Files]:
    def files(folder: Path) -> Files:
        found = model(folder)
        pieces = [piece for piece in _pieces(found["sentencepiece.bpe.model"]) if piece not in _SPECIAL]
        return found | {"vocab.json": _vocabulary([*_SPECIAL, *pieces, "madeupword0000", "the"])}

    return files


def _listed(name: str) -> dict[str, list[str]]:
    return {"additional_special_tokens": [f"__{code}__" for code in M2M_LANGUAGES[name].split()]}


def _nllb_declared(folder: Path) -> Files:
    """As transformers saves it: every token that is no piece with its id, a language of the user's own among them."""
    found = _nllb(folder)
    end = len(_pieces(found["sentencepiece.bpe.model"])) + 3
    tokens = dict(enumerate(_SPECIAL)) | dict(enumerate(("eng_Latn", "fra_Latn", "zho_Hans"), end))
    declared = {str(i): added(token) for i, token in tokens.items()}
    declared[str(end + 3)] = added("<mask>", lstrip=True)
    declared[str(end + 4)] = added("xyz_Latn")
    settings = {
        "tokenizer_class": "NllbTokenizer",
        "added_tokens_decoder": declared,
        "additional_special_tokens": ["eng_Latn", "fra_Latn", "zho_Hans", "xyz_Latn"],
        "src_lang": "xyz_Latn",
    }
    return found | {"tokenizer_config.json": json.dumps(settings).encode()}


def _blenderbot_small(_: Path) -> Files:
    """Words in lower case; `the` is reached through `th`, which is no token, and `qu` is merged but leads nowhere."""
    letters = [chr(i) for i in (*range(0x21, 0x41), *range(0x5B, 0x7F)) if chr(i) != "@"]
    words = ["the", "the@@", "an", "an@@", "on", "dog", "er", "it", "__newln__", "don", "'", "\u00e9@@", "ll@@"]
    tokens = ["__null__", "__start__", "__end__", "__unk__", *words]
    merges = ["t h", "th e</w>", "th e", "a n</w>", "a n", "o n</w>", "d o", "do g</w>", "e r</w>", "q u", "i t</w>"]
    merges += ["do n</w>", "_ _", "__ n", "e w", "__n ew", "l n", "__new ln", "_ _</w>", "__newln __</w>", "l l"]
    lines = "".join(f"{line}\n" for line in ("#version: 0.2", *merges)).encode()
    spelled = [text for letter in letters for text in (letter, f"{letter}@@")]
    return {"vocab.json": _vocabulary([*tokens, *spelled]), "merges.txt": lines}


_blenderbot = byte_level(*_SPECIAL, last=("<mask>",))

CHECKPOINTS = {
    "marian": Slow("marian", _marian(), {"source_lang": "eng", "target_lang": "fra", "tokenizer_class": "MarianTokenizer"}),
    "marian-separate": Slow("marian", _marian(separate=True), {"separate_vocabs": True}),
    "m2m": Slow("m2m_100", _m2m(_fairseq), {"tokenizer_class": "M2M100Tokenizer", **_listed("m2m100")}),
    "m2m-bpe": Slow("m2m_100", _m2m(_nllb), {"src_lang": "zh", "language_codes": "wmt21", **_listed("wmt21")}),
    "mbart": Slow("mbart", _fairseq, {"tokenizer_class": "MBartTokenizer"}),
    "mbart50": Slow("mbart", _fairseq, {"tokenizer_class": "MBart50Tokenizer", "src_lang": "sl_SI"}),
    "nllb": Slow("m2m_100", _nllb_declared),
    "pegasus": Slow("pegasus", _t5, {"tokenizer_class": "PegasusTokenizer"}),
    "blenderbot": Slow("blenderbot", _blenderbot, {"add_prefix_space": True}),
    "blenderbot-small": Slow("blenderbot-small", _blenderbot_small),
    "mt5": Slow("mt5", _t5, {"tokenizer_class": "MT5Tokenizer", "extra_ids": 0}),
    "umt5": Slow("umt5", _t5, {"tokenizer_class": "T5Tokenizer", "extra_ids": 20, "additional_special_tokens": _sentinels}),
    "longt5": Slow("longt5", _t5, {"tokenizer_class": "T5Tokenizer"}),
}  # fmt: skip
