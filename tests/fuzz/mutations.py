"""Valid files with damage: bytes flipped, cut and repeated, lengths that lie, JSON values that became something else."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from random import Random
from typing import Any

Damage = Callable[[bytes, Random], bytes]

_HUGE = (1 << 64) - 1
_NUMBERS = (0, 1, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, _HUGE)
_PIECES = (b"0", b"9" * 30, b"-", b'"', b"[[", b"{}", b"\\u0000", bytes(8), b"\xff" * 8, b"\n", b"1e999", b"\\ud800")

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 255, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**40),
    *(0.0, -0.5, 0.1, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "a" * 5000, "../x", "/", "\x00", "\ud800", "\u202e", "%s%n", "1", "nan", "null", "é", "a\nb", "*", "("),
    *([], {}, [0], [[]], [None], ["a", 1], {"": None}, {"x": {}}, [1, 2, 3, 4], [[1, 2], [3]], {"a": [{"b": 1}]}),
)


def damaged_bytes(good: bytes, source: Random) -> bytes:
    """Up to 16 changes, most of them near the beginning, where headers are."""
    file = bytearray(good)
    for _ in range(source.choice((1, 1, 1, 2, 4, 16))):
        length = min(512, len(file)) if source.random() < 0.6 else len(file)
        at = source.randrange(max(1, length))
        kind = source.randrange(7)
        if kind == 0:
            file[at : at + 1] = bytes([source.randrange(256)])
        elif kind == 1 and at < len(file):
            file[at] ^= 1 << source.randrange(8)
        elif kind == 2:
            number = source.choice(_NUMBERS)
            file[at : at + 8] = struct.pack("<Q", number)
        elif kind == 3:
            number = source.choice(_NUMBERS) & 0xFFFFFFFF
            file[at : at + 4] = struct.pack("<I", number)
        elif kind == 4:
            del file[at : at + source.choice((1, 4, 8, 100, 1 << 20))]
        elif kind == 5:
            file[at:at] = source.choice(_PIECES)
        else:
            file[at:at] = file[at : at + source.choice((4, 8, 64))]
    return bytes(file)


def damaged_json(good: bytes, source: Random) -> bytes:
    """Mostly valid JSON in which up to four values were replaced, moved, renamed, dropped or doubled."""
    if source.random() < 0.2:
        return damaged_bytes(good, source)
    holder = {"": json.loads(good)}
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        _change(holder, source)
    text = json.dumps(holder.get(""))
    if source.random() < 0.02:  # deeper than any parser recurses
        depth = source.choice((500, 5000, 100_000))
        text = text.replace("null", "[" * depth + "]" * depth, 1) if "null" in text else "[" * depth + "]" * depth
    return text.encode()


def damaged_safetensors(good: bytes, source: Random) -> bytes:
    """The header as JSON, with a length that fits or lies; or any bytes."""
    if source.random() < 0.5:
        return damaged_bytes(good, source)
    length = int.from_bytes(good[:8], "little")
    header = damaged_json(good[8 : 8 + length], source)
    said = source.choice(_NUMBERS) if source.random() < 0.1 else len(header)
    return struct.pack("<Q", said) + header + good[8 + length :]


def damaged_text(words: tuple[str, ...]) -> Damage:
    """Text with some of these words in it, pieces of itself moved, or any bytes."""

    def damage(good: bytes, source: Random) -> bytes:
        if source.random() < 0.2:
            return damaged_bytes(good, source)
        text = good.decode()
        for _ in range(source.choice((1, 1, 2, 4))):
            at, to = sorted(source.randrange(len(text) + 1) for _ in range(2))
            if source.random() < 0.7:
                text = text[:at] + source.choice(words) + text[source.choice((at, min(to, at + 20))) :]
            else:
                text = text[:at] + text[to:] + text[at:to]
        return text.encode()

    return damage


DAMAGES: Mapping[str, Damage] = {".json": damaged_json, ".safetensors": damaged_safetensors}


def _change(holder: Any, source: Random) -> None:
    places = list(_places(holder))
    parent, key = source.choice(places)
    kind = source.randrange(8)
    if kind <= 3:
        parent[key] = deepcopy(source.choice(_VALUES))
    elif kind == 4:
        other, place = source.choice(places)
        parent[key] = deepcopy(other[place])
    elif kind == 5:
        parent[key] = source.choice(
            ([parent[key]], {"x": parent[key]}, [parent[key], deepcopy(parent[key])], str(parent[key])[:100])
        )
    elif isinstance(parent, dict) and kind == 6 and key:
        parent[source.choice((key + "x", "", key.upper(), "\x00"))] = parent.pop(key)
    elif key != "":
        del parent[key]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)
