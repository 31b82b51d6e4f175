"""The bytes of a SentencePiece model in, its pieces and the settings a tokenizer needs out.

The file is a protocol buffer (sentencepiece_model.proto). Only the fields named here are read; a field of any other
number is stepped over, so newer files open too. Lengths are checked before a byte is taken.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from edgelm_export.checkpoint.files import corrupt, refuse_pointer, shown
from edgelm_export.checkpoint.tokenizer_parts import is_charsmap

_MAX_PIECES = 1 << 21  # the largest real model has 262,144
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE_BYTES = {_FIXED64: 8, _FIXED32: 4}

_Field = tuple[int, int | memoryview]


class PieceType(IntEnum):
    """SentencePiece.Type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Algorithm(IntEnum):
    """TrainerSpec.ModelType."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True)
class SentencePieceModel:
    """Pieces in id order with a score and a type each; no piece is empty or there twice."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[PieceType, ...]
    algorithm: Algorithm
    unknown: int  # id of the unknown piece
    charsmap: bytes  # normalization table; empty where characters stay as they are
    dummy_prefix: bool  # whether a text starts with one more space

    def of_type(self, *types: PieceType) -> list[int]:
        """Ids of the pieces that have one of these types."""
        return [i for i, kind in enumerate(self.types) if kind in types]


def read_sentencepiece(file: Path, data: bytes) -> SentencePieceModel:
    """Reads and checks a model; `file` is for messages.

    Raises:
        CorruptFile: no such file, or one whose pieces, lengths or ids cannot be.
    """
    refuse_pointer(file, data[:8])
    pieces: list[tuple[str, float, PieceType]] = []
    settings: dict[tuple[int, int], int | memoryview] = {}
    for number, value in _fields(file, memoryview(data)):
        if number == 1:
            if len(pieces) >= _MAX_PIECES:
                _refuse(file, f"holds more than the {_MAX_PIECES:,} pieces that edgelm reads")
            pieces.append(_piece(file, len(pieces), _message(file, value)))
        elif number in (2, 3):  # trainer_spec, normalizer_spec: what comes twice counts as it stands last
            settings |= {(number, inner): given for inner, given in _fields(file, _message(file, value))}
    if not pieces:
        _refuse(file, "holds no pieces, so it is no SentencePiece model")
    texts, scores, types = zip(*pieces, strict=True)
    _check_pieces(file, texts, scores)
    charsmap = bytes(_message(file, settings.get((3, 2), memoryview(b""))))
    if charsmap and not is_charsmap(charsmap):
        _refuse(file, "has a precompiled_charsmap that is no normalization table")
    return SentencePieceModel(
        pieces=texts,
        scores=scores,
        types=types,
        algorithm=_algorithm(file, _number(file, settings.get((2, 3), Algorithm.UNIGRAM))),
        unknown=_unknown(file, types),
        charsmap=charsmap,
        dummy_prefix=bool(_number(file, settings.get((3, 3), 1))),
    )


def _piece(file: Path, position: int, data: memoryview) -> tuple[str, float, PieceType]:
    text, score, kind = memoryview(b""), 0.0, 1
    for number, value in _fields(file, data):
        if number == 1:
            text = _message(file, value)
        elif number == 2:
            raw = _message(file, value)
            if len(raw) != 4:
                _refuse(file, f"has no 32-bit score at piece {position}")
            (score,) = struct.unpack("<f", raw)
        elif number == 3:
            kind = _number(file, value)
    try:
        return bytes(text).decode(), score, PieceType(kind)
    except UnicodeDecodeError:
        _refuse(file, f"holds at {position} a piece that is no UTF-8 text")
    except ValueError:
        _refuse(file, f"gives piece {position} the unknown type {kind}")


def _check_pieces(file: Path, texts: tuple[str, ...], scores: tuple[float, ...]) -> None:
    first: dict[str, int] = {}
    for i, (text, score) in enumerate(zip(texts, scores, strict=True)):
        if not text:
            _refuse(file, f"holds an empty piece at {i}")
        if first.setdefault(text, i) != i:
            _refuse(file, f"lists the piece {shown(text)} twice, as {first[text]} and {i}")
        if not math.isfinite(score):
            _refuse(file, f"gives piece {i} the score {score}")


def _algorithm(file: Path, value: int) -> Algorithm:
    try:
        return Algorithm(value)
    except ValueError:
        _refuse(file, f"names the unknown model_type {value}")


def _unknown(file: Path, types: tuple[PieceType, ...]) -> int:
    """As SentencePiece itself does, which goes by the types and not by the trainer's unk_id."""
    found = [i for i, kind in enumerate(types) if kind == PieceType.UNKNOWN]
    if len(found) != 1:
        _refuse(file, f"has {len(found)} unknown pieces instead of one")
    return found[0]


def _fields(file: Path, data: memoryview) -> Iterator[_Field]:
    """(number, value) of each field of a message: an integer, or bytes that may be a message, a text or a number."""
    at = 0
    while at < len(data):
        key, at = _varint(file, data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(file, data, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(file, data, at)
        elif wire in _WIRE_BYTES:
            length = _WIRE_BYTES[wire]
        else:
            _refuse(file, f"is no SentencePiece model (field {number} is of kind {wire})")
        if length > len(data) - at:
            _refuse(file, f"says that field {number} has {length:,} bytes, but only {len(data) - at:,} follow")
        yield number, data[at : at + length]
        at += length


def _varint(file: Path, data: memoryview, at: int) -> tuple[int, int]:
    """The integer that starts at a position, seven bits a byte, and where the next begins."""
    value = 0
    for count, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    _refuse(file, "ends within a number or has one of more than ten bytes")


def _message(file: Path, value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        _refuse(file, "is no SentencePiece model (a number where bytes belong)")
    return value


def _number(file: Path, value: int | memoryview) -> int:
    if not isinstance(value, int):
        _refuse(file, "is no SentencePiece model (bytes where a number belongs)")
    return value


def _refuse(file: Path, what: str) -> NoReturn:
    raise corrupt(file, what)
