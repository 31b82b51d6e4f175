"""One function a family of slow tokenizers of encoder-decoders: its files in, the parts of tokenizer.json it decides out.

Sources: the tokenization_*.py of transformers' models; what it leaves to the SentencePiece library is as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace as changed
from typing import Any

from edgelm_export.checkpoint.files import corrupt, shown
from edgelm_export.checkpoint.sentencepiece_model import Algorithm, PieceType, SentencePieceModel
from edgelm_export.checkpoint.slow_tokenizer_files import SlowFiles
from edgelm_export.checkpoint.slow_tokenizer_languages import (
    M2M_LANGUAGES,
    MBART50_LANGUAGES,
    MBART_LANGUAGES,
    NLLB_LANGUAGES,
)
from edgelm_export.checkpoint.slow_tokenizer_parts import (
    Parts,
    Pieces,
    characters,
    check_algorithm,
    likeliest,
    matched_pieces,
    scored,
    special_text,
    unigram_model,
    unknown_token,
    unscored,
)
from edgelm_export.checkpoint.slow_tokenizer_tokens import Tokens
from edgelm_export.checkpoint.tokenizer_parts import bpe, merges_by_score, replace, sequence

_SETTINGS = "tokenizer_config.json"
_UNKNOWN = "\uffff"  # no character, so no vocabulary has it


def mbart(files: SlowFiles, tokens: Tokens) -> Parts:
    """fairseq's ids as in XLM-RoBERTa; after the pieces come the languages and the mask."""
    return _fairseq(files, tokens, MBART_LANGUAGES.split())


def mbart50(files: SlowFiles, tokens: Tokens) -> Parts:
    """The same with more languages."""
    return _fairseq(files, tokens, MBART50_LANGUAGES.split())


def nllb(files: SlowFiles, tokens: Tokens) -> Parts:
    """The same with the languages the files list; those that give ids to all added tokens need no more than the pieces."""
    if "added_tokens_decoder" in files.settings:
        return _fairseq(files, tokens, [])
    usual = {token.content for token in tokens.named.values()}
    listed = [token.content for token in tokens.others if token.content not in usual]
    # The order of the trained models. Without a list, transformers puts the mask first and 5 forgets the languages.
    return _fairseq(files, tokens, listed or NLLB_LANGUAGES.split())


def _fairseq(files: SlowFiles, tokens: Tokens, languages: Sequence[str]) -> Parts:
    model = _word_model(files, "sentencepiece.bpe.model")
    if len(model.pieces) < 3:
        raise corrupt(
            files.folder, f"its SentencePiece model holds {len(model.pieces)} pieces, and the first 3 are special"
        )
    head = [special_text(files, tokens, f"{name}_token") for name in ("bos", "pad", "eos", "unk")]
    mask = [special_text(files, tokens, "mask_token")] if languages else []
    vocabulary = [*unscored(*head), *scored(model)[3:], *unscored(*languages, *mask)]
    return _on_words(files, model, vocabulary, 3, languages)


def m2m_100(files: SlowFiles, tokens: Tokens) -> Parts:
    """The ids are those of vocab.json; the languages follow as __en__, __fr__ ..."""
    name = files.setting("language_codes", "m2m100")
    if name not in M2M_LANGUAGES:
        raise corrupt(
            files.folder / _SETTINGS, f"language_codes is {shown(name)} instead of {' or '.join(M2M_LANGUAGES)}"
        )
    model, index = _word_model(files, "sentencepiece.bpe.model"), files.ids("vocab.json")
    languages = [token for code in M2M_LANGUAGES[name].split() if (token := f"__{code}__") not in index]
    return _by_vocabulary(files, tokens, model, index, languages)


def marian(files: SlowFiles, tokens: Tokens) -> Parts:
    """Source text is cut by one SentencePiece model, target text by another; vocab.json has the ids of both."""
    return _by_vocabulary(files, tokens, _word_model(files, "source.spm"), files.ids("vocab.json"))


def marian_target(files: SlowFiles, tokens: Tokens) -> Parts:
    """Target text, which may have a vocabulary of its own."""
    name = "target_vocab.json" if files.setting("separate_vocabs", False) else "vocab.json"
    return _by_vocabulary(files, tokens, _word_model(files, "target.spm"), files.ids(name))


def pegasus(files: SlowFiles, tokens: Tokens) -> Parts:
    """Between the first two pieces and the others come the masks and as many tokens as `offset` asks for."""
    model = unigram_model(files, "spiece.model", at_least=2)
    sentence_mask = files.settings.get("mask_token_sent", "<mask_1>")
    offset = files.setting("offset", 103)
    if not 0 <= offset <= 100_000:
        raise corrupt(files.folder / _SETTINGS, f"offset is {offset}")
    head = [special_text(files, tokens, f"{name}_token") for name in ("pad", "eos")]
    if sentence_mask:
        head += [files.setting("mask_token_sent", "<mask_1>"), special_text(files, tokens, "mask_token")]
    head += [f"<unk_{i}>" for i in range(2, offset)]
    if len(head) != offset + 2:
        raise corrupt(
            files.folder / _SETTINGS, f"offset is {offset}, but there are {len(head) - 2} tokens before the pieces"
        )
    vocabulary = [*unscored(*head), *scored(model)[2:]]
    return likeliest(files, model, vocabulary, model.unknown + offset, characters(model), head)


def blenderbot_small(files: SlowFiles, tokens: Tokens) -> Parts:
    """BPE on lower-case words, where @@ marks what does not end a word; signs stand alone or begin a word."""
    index = files.ids("vocab.json")
    unknown = unknown_token(files, tokens, "vocab.json", index)
    spelled: dict[str, int] = {}
    for token, i in index.items():
        inner = token.removesuffix("@@") or token
        text = token if token in tokens.texts else inner if inner != token else f"{token}</w>"
        if spelled.setdefault(text, i) != i:
            raise corrupt(files.folder / "vocab.json", f"spells {shown(text)} in two ways")
    merges = _word_merges(files, spelled)
    # As in the original: a line break after a word is one of its own, but after an apostrophe it is lost.
    breaks = replace(r"(?<=[^\s'])\n", " __newln__ ", regex=True)
    return Parts(
        model=bpe(spelled, merges, unk_token=unknown, end_of_word_suffix="</w>"),
        index=spelled,
        normalizer=sequence("normalizers", [breaks, {"type": "Lowercase"}]),
        pre_tokenizer=sequence(
            "pretokenizers",
            [{"type": "WhitespaceSplit"}, _split("'", "Isolated"), _split("[.,!?()]", "MergedWithNext")],
        ),
        decoder={"type": "BPEDecoder", "suffix": "</w>"},
    )


def _split(pattern: str, behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _word_merges(files: SlowFiles, index: dict[str, int]) -> list[list[str]]:
    """Merges that lead to a token; what they pass through on the way there gets an id after the vocabulary, in `index`."""
    lines = files.merges()
    pairs = [line.split() for line in lines]
    odd = next((i for i, pair in enumerate(pairs) if len(pair) != 2), None)
    if odd is not None:
        raise corrupt(files.folder / "merges.txt", f"holds {shown(lines[odd])} at {odd}, which is no pair")
    wanted, before = set(index), 0
    while len(wanted) > before:
        before = len(wanted)
        for pair in reversed(pairs):
            if "".join(pair) in wanted:
                wanted.update(pair)
    for text in sorted(wanted - index.keys()):
        index[text] = len(index)
    return [pair for pair in pairs if "".join(pair) in wanted]


def _word_model(files: SlowFiles, name: str) -> SentencePieceModel:
    model = files.sentencepiece(name)
    check_algorithm(files, model, Algorithm.UNIGRAM, Algorithm.BPE)
    return model


def _by_vocabulary(
    files: SlowFiles, tokens: Tokens, model: SentencePieceModel, index: Mapping[str, int], languages: Sequence[str] = ()
) -> Parts:
    """Pieces of the model with the ids of a vocabulary of its own. Pieces without an id are cut into those that have one."""
    unknown = unknown_token(files, tokens, "vocab.json", index)
    codes = [token for token in index if token.startswith(">>") and token.endswith("<<")]
    whole = tokens.texts | set(codes) | matched_pieces(model).keys()
    known = {model.pieces[i]: model.scores[i] for i in model.of_type(PieceType.NORMAL, PieceType.USER_DEFINED)}
    lowest = min(known.values(), default=0.0)
    alphabet = set("".join(known))
    # A character that the model does not know keeps its id if it has one, as those of the other language do; several in
    # a row are one unknown token.
    strange = {token for token in index if len(token) == 1 and token not in alphabet}
    # What text cannot lead to, as the words of the other language, is put behind a space, where it is never looked for.
    vocabulary = [
        (token if token in known or token in whole | strange else f" {token}", known.get(token, lowest))
        for token in sorted(index, key=index.__getitem__)
    ]
    parts = _on_words(files, model, [*vocabulary, *unscored(*languages)], index[unknown], [*codes, *languages])
    rows = [replace(_rows_of_others(alphabet), _UNKNOWN, regex=True)] if strange else []
    normalizers = [*characters(model), *rows]
    return changed(
        parts,
        normalizer=sequence("normalizers", normalizers) if normalizers else None,
        decoder=sequence("decoders", [replace(" ", ""), parts.decoder]),
    )


def _rows_of_others(alphabet: Iterable[str]) -> str:
    """Matches two or more characters that are in no piece; spaces separate them."""
    codes = "".join(rf"\x{{{ord(character):X}}}" for character in sorted(alphabet))
    return rf"[^\s{codes}]{{2,}}"


def _on_words(
    files: SlowFiles, model: SentencePieceModel, vocabulary: Pieces, unknown: int, special: Iterable[str]
) -> Parts:
    """Unigram or BPE, as the model is; tokens that it wants matched as a whole must be in the vocabulary."""
    parts = likeliest(files, model, vocabulary, unknown, characters(model), list(special))
    parts = changed(parts, matched={token: kind for token, kind in parts.matched.items() if token in parts.index})
    if model.algorithm == Algorithm.UNIGRAM:
        return parts
    joinable = {model.pieces[i] for i in model.of_type(PieceType.NORMAL, PieceType.USER_DEFINED)}

    def refuse(what: str) -> Any:
        raise corrupt(files.folder, f"its SentencePiece model {what}")

    merges = merges_by_score({piece: score for piece, score in vocabulary if piece in joinable}, refuse)
    return changed(parts, model=bpe(parts.index, merges, unk_token=vocabulary[unknown][0], fuse_unk=True))
