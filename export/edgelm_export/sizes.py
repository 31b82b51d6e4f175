"""Sizes as users write them."""

from __future__ import annotations

import re

from edgelm.errors import InvalidOption

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{infix}B": base**power
    for power, letter in enumerate("KMG", 1)
    for infix, base in (("", 1000), ("I", 1024))
}


def read_size(size: str | int) -> int:
    """Bytes from a number or a text such as 100MB (10^6) or 95MiB (2^20).

    Raises:
        InvalidOption: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if found is None or found[2].upper() not in _UNITS:
        raise InvalidOption(
            f"size {size!r} is none; write bytes, or a number with KB, MB, GB, KiB, MiB or GiB, as in 100MB"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])
