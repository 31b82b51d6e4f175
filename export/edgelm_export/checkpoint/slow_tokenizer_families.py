"""One function a family of slow tokenizers: its files in, the parts of tokenizer.json it decides out.

What a setting means and what holds without it are those of transformers 5, but where models were trained otherwise: see
the comments. Sources: the tokenization_*.py of its models.
"""

from __future__ import annotations

from typing import Any

from edgelm_export.checkpoint.files import corrupt
from edgelm_export.checkpoint.gguf_pre_tokenizers import PRE_TOKENIZERS, split_json
from edgelm_export.checkpoint.sentencepiece_model import Algorithm, PieceType
from edgelm_export.checkpoint.slow_tokenizer_files import SlowFiles
from edgelm_export.checkpoint.slow_tokenizer_parts import (
    Parts,
    characters,
    check_algorithm,
    index_of,
    likeliest,
    matched_pieces,
    scored,
    special_text,
    unigram_model,
    unknown_token,
    unscored,
)
from edgelm_export.checkpoint.slow_tokenizer_tokens import Tokens
from edgelm_export.checkpoint.tokenizer_parts import (
    WORDPIECE_DECODER,
    Json,
    bert_normalizer,
    bpe,
    byte_level,
    bytes_and_spaces,
    merges_by_score,
    metaspace,
    replace,
    sequence,
    unigram,
    wordpiece,
)


def word_piece(files: SlowFiles, tokens: Tokens) -> Parts:
    """BERT and those who took its vocabulary."""
    index = files.words()
    unknown = unknown_token(files, tokens, "vocab.txt", index)
    accents = files.settings.get("strip_accents")
    return Parts(
        model=wordpiece(index, unknown),
        index=index,
        normalizer=bert_normalizer(
            lowercase=files.setting("do_lower_case", True),
            strip_accents=None if accents is None else files.setting("strip_accents", False),
            chinese=files.setting("tokenize_chinese_chars", True),
        ),
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder=WORDPIECE_DECODER,
    )


def gpt2(files: SlowFiles, tokens: Tokens) -> Parts:
    """Byte-level BPE cut as GPT-2 does: gpt2, roberta, bart, deberta."""
    prefix = files.setting("add_prefix_space", False)
    return _byte_level(files, None, byte_level(prefix=prefix))


def openai_gpt(files: SlowFiles, tokens: Tokens) -> Parts:
    """BPE on BERT's lower-case words, whose ends are marked </w>: the first GPT."""
    index, merges = files.pairs()
    unknown = unknown_token(files, tokens, "vocab.json", index)
    return Parts(
        model=bpe(index, merges, unk_token=unknown, continuing_subword_prefix="", end_of_word_suffix="</w>"),
        index=index,
        normalizer=bert_normalizer(lowercase=True, strip_accents=None, chinese=True),
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "BPEDecoder", "suffix": "</w>"},
    )


def blenderbot(files: SlowFiles, tokens: Tokens) -> Parts:
    """The same, with a space before the text: so it was trained, though transformers 4 wants add_prefix_space to say so."""
    return _byte_level(files, None, byte_level(prefix=files.setting("add_prefix_space", True)))


def qwen2(files: SlowFiles, tokens: Tokens) -> Parts:
    """Byte-level BPE with a pattern of its own; characters are composed first."""
    prefix = files.setting("add_prefix_space", False)
    return _byte_level(files, {"type": "NFC"}, split_json(PRE_TOKENIZERS["qwen2"], prefix=prefix))


def xlm_roberta(files: SlowFiles, tokens: Tokens) -> Parts:
    """The ids are fairseq's: its four special tokens stand in the place of SentencePiece's three, and a mask at the end."""
    model = unigram_model(files, "sentencepiece.bpe.model", at_least=3)
    special = [special_text(files, tokens, f"{name}_token") for name in ("bos", "pad", "eos", "unk")]
    vocabulary = [*unscored(*special), *scored(model)[3:], *unscored(special_text(files, tokens, "mask_token"))]
    return likeliest(files, model, vocabulary, 3, characters(model))


def camembert(files: SlowFiles, tokens: Tokens) -> Parts:
    """As fairseq wrote them: five tokens before SentencePiece's own, of which only two are ever used."""
    model = unigram_model(files, "sentencepiece.bpe.model", at_least=1)
    pad, unknown, mask = (special_text(files, tokens, f"{name}_token") for name in ("pad", "unk", "mask"))
    head = [*unscored("<s>NOTUSED", pad, "</s>NOTUSED", unknown), ("<unk>NOTUSED", -100.0)]
    return likeliest(files, model, [*head, *scored(model)[1:], *unscored(mask)], 3, characters(model))


def albert(files: SlowFiles, tokens: Tokens) -> Parts:
    """Quotation marks are made one kind; letters lose accents and case unless the settings keep them."""
    model = unigram_model(files, "spiece.model")
    steps = [replace("``", '"'), replace("''", '"')]
    if not files.setting("keep_accents", False):
        steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if files.setting("do_lower_case", True):
        steps.append({"type": "Lowercase"})
    # transformers 4 made pieces such as "9," less likely; 5 does not.
    return likeliest(files, model, scored(model), model.unknown, [*steps, *characters(model)])


def deberta_v2(files: SlowFiles, tokens: Tokens) -> Parts:
    """Versions 2 and 3 of DeBERTa."""
    model = unigram_model(files, "spm.model")
    # As SentencePiece read the training text: its own table, then spaces. transformers 5 puts NFC for the table.
    steps = [*characters(model), replace(" {2,}", " ", regex=True)]
    steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
    lower: list[Json] = [{"type": "Lowercase"}] if files.setting("do_lower_case", False) else []
    space = metaspace("always" if files.setting("add_prefix_space", True) else "first")
    split = files.setting("split_by_punct", False)
    punctuation: list[Json] = [{"type": "Punctuation", "behavior": "Isolated"}] if split else []
    return Parts(
        model=unigram(scored(model), model.unknown),
        index=index_of(files, scored(model)),
        normalizer=sequence("normalizers", [*lower, *steps]),
        pre_tokenizer=sequence("pretokenizers", [*punctuation, space]),
        decoder=space,
        matched=matched_pieces(model),
    )


def t5(files: SlowFiles, tokens: Tokens) -> Parts:
    """After SentencePiece's pieces come the sentinels <extra_id_N>, the last one first."""
    model = unigram_model(files, "spiece.model")
    count = files.setting("extra_ids", 100)
    if not 0 <= count <= 100_000:
        raise corrupt(files.folder / "tokenizer_config.json", f"extra_ids is {count}")
    known = set(model.pieces)
    sentinels = [text for i in reversed(range(count)) if (text := f"<extra_id_{i}>") not in known]
    vocabulary = [*scored(model), *unscored(*sentinels)]
    return likeliest(files, model, vocabulary, model.unknown, characters(model), sentinels)


def llama(files: SlowFiles, tokens: Tokens) -> Parts:
    """SentencePiece BPE: the best-scored pair merges first, characters outside the vocabulary become bytes."""
    model = files.sentencepiece("tokenizer.model")
    check_algorithm(files, model, Algorithm.BPE)
    joinable = model.of_type(PieceType.NORMAL, PieceType.USER_DEFINED)

    def refuse(what: str) -> Any:
        raise corrupt(files.folder / "tokenizer.model", what)

    index = {piece: i for i, piece in enumerate(model.pieces)}
    merges = merges_by_score({model.pieces[i]: model.scores[i] for i in joinable}, refuse)
    unknown = model.pieces[model.unknown]
    prefix = files.setting("add_prefix_space", model.dummy_prefix)
    # After a special token the space is put only where "legacy" asks for it, which transformers 4 took as given.
    scheme = ("always" if files.setting("legacy", False) else "first") if prefix else "never"
    return Parts(
        model=bpe(index, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
        index=index,
        normalizer=sequence("normalizers", characters(model)) if model.charsmap else None,
        pre_tokenizer=metaspace(scheme, split=False),
        decoder=bytes_and_spaces(prefix=prefix),
        matched=matched_pieces(model),
    )


def _byte_level(files: SlowFiles, normalizer: Json | None, pre_tokenizer: Json) -> Parts:
    index, merges = files.pairs()
    return Parts(bpe(index, merges), index, normalizer, pre_tokenizer, byte_level(prefix=True))
