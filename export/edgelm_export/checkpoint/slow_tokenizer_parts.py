"""What a family of slow tokenizers decides, and the pieces of it that several families share.

A SentencePiece model in, the model, normalizer and pre-tokenizer of tokenizer.json out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgelm.errors import UnsupportedConfig
from edgelm_export.checkpoint.files import corrupt, shown
from edgelm_export.checkpoint.sentencepiece_model import Algorithm, PieceType, SentencePieceModel
from edgelm_export.checkpoint.slow_tokenizer_files import SlowFiles
from edgelm_export.checkpoint.slow_tokenizer_tokens import Tokens
from edgelm_export.checkpoint.tokenizer_parts import Json, metaspace, precompiled, sequence, unigram

Pieces = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Parts:
    """What a family decides; `index` is the model's vocabulary, token -> id."""

    model: Json
    index: Mapping[str, int]
    normalizer: Json | None
    pre_tokenizer: Json
    decoder: Json
    matched: Mapping[str, bool] = field(default_factory=dict)  # pieces matched as a whole -> whether they are special


def likeliest(
    files: SlowFiles,
    model: SentencePieceModel,
    vocabulary: Pieces,
    unknown: int,
    normalizers: Sequence[Json],
    sentinels: Sequence[str] = (),
) -> Parts:
    """Unigram on words: white space is no text, and every word starts with a space."""
    # transformers 4 kept white space that the model's own table does not turn into plain spaces.
    space = metaspace("always" if files.setting("add_prefix_space", True) else "never")
    return Parts(
        model=unigram(vocabulary, unknown),
        index=index_of(files, vocabulary),
        normalizer=sequence("normalizers", normalizers) if normalizers else None,
        pre_tokenizer=sequence("pretokenizers", [{"type": "WhitespaceSplit"}, space]),
        decoder=space,
        matched=matched_pieces(model) | dict.fromkeys(sentinels, True),
    )


def unigram_model(files: SlowFiles, name: str, at_least: int = 1) -> SentencePieceModel:
    """A Unigram model under the name that its class gives it.

    Raises:
        CorruptFile: it is missing or damaged, or holds fewer than `at_least` pieces.
        UnsupportedConfig: it is of another kind.
    """
    model = files.sentencepiece(name)
    check_algorithm(files, model, Algorithm.UNIGRAM)
    if len(model.pieces) < at_least:
        raise corrupt(files.folder / name, f"holds {len(model.pieces)} pieces, and the first {at_least} are special")
    return model


def check_algorithm(files: SlowFiles, model: SentencePieceModel, *wanted: Algorithm) -> None:
    """Refuses a model of another kind.

    Raises:
        UnsupportedConfig: it is of another kind.
    """
    if model.algorithm not in wanted:
        kinds = " or ".join(kind.name for kind in wanted)
        raise UnsupportedConfig(
            f"{files.folder}: its SentencePiece model is of the kind {model.algorithm.name}, and this tokenizer class "
            f"goes with {kinds}; name the right tokenizer_class in tokenizer_config.json, or save the tokenizer "
            "in its fast form into that folder"
        )


def characters(model: SentencePieceModel) -> list[Json]:
    """The model's own normalization table, as the normalizers to apply."""
    return [precompiled(model.charsmap)] if model.charsmap else []


def matched_pieces(model: SentencePieceModel) -> dict[str, bool]:
    """Pieces that are matched as a whole, and whether they are special."""
    found = model.of_type(PieceType.CONTROL, PieceType.USER_DEFINED)
    return {model.pieces[i]: model.types[i] == PieceType.CONTROL for i in found}


def scored(model: SentencePieceModel) -> list[tuple[str, float]]:
    """The model's pieces in id order, each with its score."""
    return list(zip(model.pieces, model.scores, strict=True))


def unscored(*texts: str) -> list[tuple[str, float]]:
    """Special tokens as pieces."""
    return [(text, 0.0) for text in texts]


def index_of(files: SlowFiles, vocabulary: Pieces) -> dict[str, int]:
    """Piece -> id.

    Raises:
        CorruptFile: a piece is there twice.
    """
    index = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    if len(index) != len(vocabulary):
        twice = next(piece for i, (piece, _) in enumerate(vocabulary) if index[piece] != i)
        raise corrupt(files.folder, f"the SentencePiece model and the special tokens both hold {shown(twice)}")
    return index


def special_text(files: SlowFiles, tokens: Tokens, name: str) -> str:
    """A special token that the vocabulary cannot do without; settings can take it away.

    Raises:
        UnsupportedConfig: they do.
    """
    token = tokens.named.get(name)
    if token is None:
        raise UnsupportedConfig(
            f"{files.folder / 'tokenizer_config.json'}: {name} is null, and this tokenizer class needs one; name it"
        )
    return token.content


def unknown_token(files: SlowFiles, tokens: Tokens, name: str, index: Mapping[str, int]) -> str:
    """The token for what is not in the vocabulary, which must be in it itself; `name` is the vocabulary's file.

    Raises:
        UnsupportedConfig: settings take it away.
        CorruptFile: it is not in the vocabulary.
    """
    unknown = special_text(files, tokens, "unk_token")
    if unknown not in index:
        raise corrupt(files.folder / name, f"lacks the unknown token {shown(unknown)}")
    return unknown
