"""Files of slow tokenizers written by hand, so that tests can also write false ones."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from edgelm_export.checkpoint.sentencepiece_model import Algorithm, PieceType
from edgelm_export.checkpoint.slow_tokenizer import convert

Piece = tuple[str, float, PieceType]

FOLDER = Path("checkpoint")
SPACE = "\u2581"

# A normalization table as SentencePiece writes it, of six rules: U+FF21 -> A, U+FB01 -> fi, U+00A0 and tab -> a space,
# U+2026 -> three dots, U+200B -> nothing.
CHARSMAP = zlib.decompress(
    base64.b64decode(
        "eNol0wXMF0QYB+D7PmCOjZSQSaPEiA+R7hAVAZFGQFqQ7m4UpEQaAenuVrqlHN3djBjdDc9fb3vud7d3u9323oXYIYR0IcSNH0JUCH2nxTFliQ5D7Y2+"
        "sVgUokM/+7jW01OH8IGMp5iQBCQmEUn4kGQk5SOSs2F3dEghU/IxjgipSEsa0v9/hfAJGcjIp2QmE3M2hpBFZiMrOchOTmLIxWfk5nPykof85KMgBShM"
        "IYpShOIUoyQl+IJSfElpvuYrvqEM5SjLt5TnOypQiYpUoTLVqEoNqlOT76lNLerwA/WoSwPq04iGNOZHfqIJzWhKC5rTipa0oTXtaEsH2tOJjnShM93o"
        "Sg+604ue9KE3/SKN5hd+ZgD9GcivDGYQQxnCMH5jOL8zkhGMZhRjGcMfjGMC4/mTiUxmElOZwnSmMZMZzGYWcyO9Zz7zWMgCFrOIpSxhOctYyQr+YhWr"
        "+Zu1rGE969gYeZNsZhNb2cJ2trGDf9jFTvawO1KbFRX+lfvYywH2c4iDHOEwxzjKCY5zipOc4TTnOMsFznOJi1zhMte4ynXuxYsKN+WNSG1NVLgl73A7"
        "UuMuD7jPIx7yhMc84ykveM4rXvKG17zjbfjv88XExPgGTZqF9x0ti6Q="
    )
)

# Byte-level spelling of all bytes, in an order of its own.
ALPHABET = [*map(chr, range(0x21, 0x7F)), *map(chr, range(0xA1, 0xAD)), *map(chr, range(0xAE, 0x100))]
ALPHABET += [chr(0x100 + i) for i in range(256 - len(ALPHABET))]


def varint(value: int) -> bytes:
    """Seven bits a byte, the low ones first."""
    value &= (1 << 64) - 1
    head: list[int] = []
    while value > 0x7F:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def number(field: int, value: int) -> bytes:
    """A field that holds an integer."""
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes, length: int | None = None) -> bytes:
    """A field that holds bytes; `length` overrides what it says of their number."""
    return varint(field << 3 | 2) + varint(len(content) if length is None else length) + content


def piece_bytes(text: bytes, score: float = 0.0, kind: int = PieceType.NORMAL) -> bytes:
    """A field of the model that holds one piece."""
    return message(1, message(1, text) + b"\x15" + struct.pack("<f", score) + number(3, kind))


def sentencepiece_bytes(
    pieces: Sequence[Piece],
    algorithm: int = Algorithm.UNIGRAM,
    charsmap: bytes = b"",
    *,
    dummy_prefix: bool = True,
) -> bytes:
    """A SentencePiece model."""
    trainer = number(3, algorithm) + number(4, len(pieces))
    normalizer = message(1, b"test") + (message(2, charsmap) if charsmap else b"") + number(3, dummy_prefix)
    return (
        b"".join(piece_bytes(text.encode(), score, kind) for text, score, kind in pieces)
        + message(2, trainer)
        + message(3, normalizer)
    )


def specials(*texts: str) -> list[Piece]:
    """Pieces without a score: the one that is spelled like an unknown token is it, the others are control pieces."""
    return [
        (text, 0.0, PieceType.UNKNOWN if text.strip("<>[]").lower() == "unk" else PieceType.CONTROL) for text in texts
    ]


def scored(*texts: str) -> list[Piece]:
    """Ordinary pieces, each a little less likely than the one before; longer ones are far likelier."""
    return [(text, -float(i) / 8 - 20 / len(text), PieceType.NORMAL) for i, text in enumerate(texts)]


def words(*tokens: str) -> dict[str, bytes]:
    """vocab.txt."""
    return {"vocab.txt": "".join(f"{token}\n" for token in tokens).encode()}


def pairs(tokens: Sequence[str], merges: Sequence[str]) -> dict[str, bytes]:
    """vocab.json with the tokens in order, and merges.txt."""
    index = {token: i for i, token in enumerate(tokens)}
    return {
        "vocab.json": json.dumps(index).encode(),
        "merges.txt": "".join(f"{line}\n" for line in ("#version: 0.2", *merges)).encode(),
    }


def settings(**values: Any) -> dict[str, bytes]:
    """tokenizer_config.json."""
    return {"tokenizer_config.json": json.dumps(values).encode()}


def write_all(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes the files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def sentencepiece(name: str, *first: str, algorithm: int = Algorithm.UNIGRAM, **options: Any) -> dict[str, bytes]:
    """A SentencePiece model with special tokens before a few ordinary pieces."""
    pieces = scored(SPACE, f"{SPACE}the", f"{SPACE}a", "b", "...", "fi", "\u00e9", "e", '"')
    return {name: sentencepiece_bytes([*specials(*first), *pieces], algorithm, **options)}


def unigram(*first: str, **options: Any) -> bytes:
    """The smallest SentencePiece model that knows a word."""
    return sentencepiece_bytes([*specials(*first), *scored(SPACE, f"{SPACE}the")], **options)


def backend(model_type: str, files: Mapping[str, bytes], **config: Any) -> Backend:
    """The tokenizer that the files are converted to."""
    return Backend.from_str(convert(FOLDER, files, {"model_type": model_type, **config})["tokenizer.json"].decode())


def ids(model_type: str, files: Mapping[str, bytes], text: str, second: str | None = None, **config: Any) -> list[int]:
    """Ids of one text or of a pair."""
    return backend(model_type, files, **config).encode(text, second).ids
