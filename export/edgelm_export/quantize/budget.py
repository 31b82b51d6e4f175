"""Which format each weight gets: the fewest bytes for a divergence, or the least divergence for a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# Halvings of the span of exchange rates (in its logarithm); after these no choice changes any more.
_HALVINGS = 60
_LOWEST_RATE, _HIGHEST_RATE = 1e-30, 1e30


@dataclass(frozen=True)
class Option:
    """A format that a weight may have, what it takes, and what divergence it adds to that of the others.

    Args:
        read: bytes that each decode step reads, where these are not those of the file.
    """

    form: str
    nbytes: int
    divergence: float
    read: int | None = None

    @property
    def cost(self) -> float:
        """Bytes of the file and bytes that a decode step waits for, in equal parts."""
        return self.nbytes if self.read is None else (self.nbytes + self.read) / 2


@dataclass(frozen=True)
class Selection:
    """One format for each weight, by its name, and the sums over all of them."""

    forms: Mapping[str, str]
    nbytes: int
    divergence: float


def fewest_bytes(options: Mapping[str, Sequence[Option]], divergence: float) -> Selection:
    """The smallest selection that is expected to keep a divergence; the closest one where none does."""
    keeps, _ = _boundary(options, lambda selection: selection.divergence <= divergence)
    return keeps


def least_divergence(options: Mapping[str, Sequence[Option]], nbytes: float) -> Selection:
    """The closest selection that takes no more than so many bytes; the smallest one where all take more."""
    _, fits = _boundary(options, lambda selection: selection.nbytes > nbytes)
    return fits


def _boundary(
    options: Mapping[str, Sequence[Option]], beyond: Callable[[Selection], bool]
) -> tuple[Selection, Selection]:
    """The first selection `beyond` and the last one before it, on the way from few bytes to little divergence.

    Each rate of exchange, bytes for divergence, has one selection that no other one beats (Lagrange; Everett 1963); the way
    goes over these.
    """
    low, high = _LOWEST_RATE, _HIGHEST_RATE
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if beyond(_selected(options, middle)) else (middle, high)
    return _selected(options, high), _selected(options, low)


def _selected(options: Mapping[str, Sequence[Option]], rate: float) -> Selection:
    chosen = {
        name: min(some, key=lambda option: option.cost + rate * option.divergence) for name, some in options.items()
    }
    return Selection(
        {name: option.form for name, option in chosen.items()},
        sum(option.nbytes for option in chosen.values()),
        sum(option.divergence for option in chosen.values()),
    )
