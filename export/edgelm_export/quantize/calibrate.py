"""Runs a float graph over a text and notes what the inputs of its projections look like: how wide columns get, how they go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.encode import Encoder, Row
from edgelm.progress import progress
from edgelm.session import Program
from edgelm.signature import CacheGeometry
from edgelm_export.blocks.linear import INPUT_TAP
from edgelm_export.feeds import text_feeds
from edgelm_export.quantize.compensate import Wide
from edgelm_export.quantize.formats import BLOCK_SIZES

Array = NDArray[np.float32]
Ranges = Mapping[str, Array]

# What the float graph says: those of its outputs, [..., columns] each, for one text after another.
Said = Callable[[Sequence[str]], Iterator[Sequence[Array]]]

# Tokens whose inputs are worked on together.
_TOKENS = 512

# Bytes of moments held at once: a pass over the text for each group of projections whose moments take so much.
_GROUP_BYTES = 1 << 30

# Steps from 0 to the largest value of a column when its moments are summed up: integers, so that sums are exact in any order.
_STEPS = 1 << 14


def encoder_said(program: Program, rows: Sequence[Row], pad_token_id: int) -> Said:
    """What an encoder's program says of each row by itself."""
    encoder = Encoder(program, pad_token_id)
    return lambda names: (encoder.outputs([row], names) for row in rows)


def decoder_said(program: Program, cache: CacheGeometry, texts: Sequence[Sequence[int]]) -> Said:
    """What a decoder's program says of texts of token ids, each from its first token on."""

    def said(names: Sequence[str]) -> Iterator[Sequence[Array]]:
        for ids in texts:
            yield program.run(text_feeds(program, "decoder", cache, ids), names)

    return said


class Inputs:
    """The inputs of a program's projections over a text; each thing is measured when it is first asked for."""

    def __init__(self, program: Program, said: Said, lengths: Sequence[int]) -> None:
        """Takes a program whose projections' inputs are tapped, what it says of the text, and how many tokens each part has."""
        self._said = said
        self._lengths = lengths
        self._columns = {name: program.columns(name) for name in program.outputs if name.startswith(INPUT_TAP)}
        self._moments: dict[str, Wide] = {}
        self._peaks: dict[str, Mapping[int, Wide]] = {}

    def ranges(self) -> Ranges:
        """Largest absolute value of each column of each projection's input, by the projection's name."""
        ranges: dict[str, Array] = {}
        for tap, values in self._run(list(self._columns)):
            name, columns = _projection(tap), np.abs(values).max(0)
            ranges[name] = np.maximum(ranges[name], columns) if name in ranges else columns
        return ranges

    def moments(self, name: str) -> Wide | None:
        """Mean of x x^T over the inputs x of a projection, [k, k]; None where it has no tap.

        A group of projections, from this one on, is measured together; asking in the graph's order takes one pass a group.
        """
        self._measure(name)
        return self._moments.get(name)

    def peaks(self, name: str, block_size: int) -> Wide | None:
        """Mean square of the largest value of each block of columns of a projection's input, [blocks]."""
        self._measure(name)
        return self._peaks[name][block_size] if name in self._peaks else None

    def _measure(self, name: str) -> None:
        if name in self._moments:
            return
        group = self._group(name)
        sums: dict[str, Wide] = {}
        peaks: dict[str, dict[int, Wide]] = {}
        counts: dict[str, int] = {}
        for tap, values in self._run(group):
            found = _projection(tap)
            sums[found] = sums.get(found, 0) + _products(values)
            counts[found] = counts.get(found, 0) + len(values)
            known = peaks.setdefault(found, {})
            for size, squares in _square_peaks(values).items():
                known[size] = known.get(size, 0) + squares
        if group:
            self._moments = {found: total / counts[found] for found, total in sums.items()}
            self._peaks = {
                found: {size: total / counts[found] for size, total in known.items()} for found, known in peaks.items()
            }

    def _group(self, name: str) -> list[str]:
        """The taps of a projection and of as many after it as fit."""
        taps = list(self._columns)
        first = next((i for i, tap in enumerate(taps) if _projection(tap) == name), None)
        if first is None:
            return []
        names: dict[str, int] = {}  # in order, with their bytes
        for tap in taps[first:]:
            columns = self._columns[tap]
            names.setdefault(_projection(tap), _GROUP_BYTES if columns is None else 8 * columns**2)
            if len(names) > 1 and sum(names.values()) > _GROUP_BYTES:
                names.popitem()
                break
        return [tap for tap in taps if _projection(tap) in names]

    def _run(self, taps: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Each tap's values [tokens, columns], some hundred tokens at a time."""
        if not taps:
            return
        waiting: list[list[Array]] = []
        tokens, left = 0, sum(self._lengths)
        with progress(left, "Calibrating", "token") as bar:
            for length, outputs in zip(self._lengths, self._said(taps), strict=True):
                waiting.append([values.reshape(-1, values.shape[-1]) for values in outputs])
                tokens, left = tokens + length, left - length
                if tokens >= _TOKENS or not left:
                    for tap, *parts in zip(taps, *waiting, strict=True):
                        yield tap, np.concatenate(parts)
                    waiting, tokens = [], 0
                bar.advance(length)


def _projection(tap: str) -> str:
    """Layers that share weights share what is known of their inputs."""
    return tap.removeprefix(INPUT_TAP).split("#")[0]


def _products(values: Array) -> Wide:
    """The sum of x x^T over rows [n, k] in whole steps: exact, so no library and no number of threads changes it."""
    largest = np.abs(values).max(0).astype(np.float64)
    step = np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1)))) / _STEPS
    whole = np.rint(values / step)
    return (whole.T @ whole) * step * step[:, None]


def _square_peaks(values: Array) -> dict[int, Wide]:
    """The sum over rows [n, k] of the square of the largest value of each block, by the size of the blocks."""
    found: dict[int, Wide] = {}
    peaks, width = np.abs(values), 1  # of blocks of that width, from which those of the next size follow
    for size in BLOCK_SIZES:
        peaks = np.maximum.reduceat(peaks, np.arange(0, peaks.shape[1], size // width), axis=1)
        found[size], width = np.square(peaks, dtype=np.float64).sum(0), size
    return found
