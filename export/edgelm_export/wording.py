"""Lists of names and problems inside messages."""

from __future__ import annotations

from collections.abc import Sequence


def listed(items: Sequence[str], separator: str = "; ", most: int | None = 8) -> str:
    """The first of the items, and how many more there are; all of them where `most` is None."""
    shown = items if most is None else items[:most]
    rest = len(items) - len(shown)
    return separator.join(shown) + (f" and {rest:,} more" if rest else "")
