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

# What a float graph says: those of its outputs, [..., columns] each, for one text after another.
Said = Callable[[Program, Sequence[str]], Iterator[Sequence[Array]]]

# Tokens whose inputs are worked on together.
_TOKENS = 512

# Bytes of moments held at once: a pass over the text for each group of projections whose moments take so much.
GROUP_BYTES = 1 << 30

# Length of a column over some tokens, in steps, when its moments are summed up. The product of two columns is then a sum of integers
# below 2^24, and float32 has all of these, so that it is exact in any order.
_STEPS = 1 << 12


def encoder_said(rows: Sequence[Row], pad_token_id: int) -> Said:
    """What an encoder says of each row by itself."""
    return lambda program, names: (Encoder(program, pad_token_id).outputs([row], names) for row in rows)


def decoder_said(cache: CacheGeometry, texts: Sequence[Sequence[int]]) -> Said:
    """What a decoder says of texts of token ids, each from its first token on."""

    def said(program: Program, names: Sequence[str]) -> Iterator[Sequence[Array]]:
        for ids in texts:
            yield program.run(text_feeds(program, "decoder", cache, ids), names)

    return said


class Inputs:
    """The inputs of a program's projections over a text; each thing is measured when it is first asked for."""

    def __init__(self, load: Callable[[], Program], said: Said, lengths: Sequence[int]) -> None:
        """Nothing is measured yet.

        Args:
            load: opens the program, whose projections' inputs are tapped; it stays open for one pass over the text only.
            said: what the program says of the text.
            lengths: how many tokens each part of the text has.
        """
        self._load = load
        self._said = said
        self._lengths = lengths
        self._program: Program | None = load()
        self._columns = {name: self._program.columns(name) for name in self._program.outputs if _is_tap(name)}
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
            sums[found] = np.add(sums.get(found, 0), _products(values), dtype=np.float64, out=sums.get(found))
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
            names.setdefault(_projection(tap), GROUP_BYTES if columns is None else 8 * columns**2)
            if len(names) > 1 and sum(names.values()) > GROUP_BYTES:
                names.popitem()
                break
        return [tap for tap in taps if _projection(tap) in names]

    def _run(self, taps: Sequence[str]) -> Iterator[tuple[str, Array]]:
        """Each tap's values [tokens, columns], some hundred tokens at a time."""
        if not taps:
            return
        self._program = self._program or self._load()
        waiting: list[list[Array]] = []
        tokens, left = 0, sum(self._lengths)
        with progress(left, "Calibrating", "token") as bar:
            for length, outputs in zip(self._lengths, self._said(self._program, taps), strict=True):
                waiting.append([values.reshape(-1, values.shape[-1]) for values in outputs])
                tokens, left = tokens + length, left - length
                if tokens >= _TOKENS or not left:
                    for tap, *parts in zip(taps, *waiting, strict=True):
                        yield tap, np.concatenate(parts)
                    waiting, tokens = [], 0
                bar.advance(length)
        self._program = None  # its memory is needed for other work


def _is_tap(output: str) -> bool:
    return output.startswith(INPUT_TAP)


def _projection(tap: str) -> str:
    """Layers that share weights share what is known of their inputs."""
    return tap.removeprefix(INPUT_TAP).split("#")[0]


def _products(values: Array) -> Array:
    """The sum of x x^T over rows [n, k] in whole steps: exact, so no library and no number of threads changes it."""
    length = np.sqrt(np.square(values, dtype=np.float64).sum(0))
    longest = _STEPS - np.sqrt(len(values))  # for rounding adds half a step a row at most
    step = np.exp2(np.ceil(np.log2(np.where(length > 0, length, 1) / longest))).astype(np.float32)
    whole = np.rint(values / step) * step
    return whole.T @ whole


def _square_peaks(values: Array) -> dict[int, Wide]:
    """The sum over rows [n, k] of the square of the largest value of each block, by the size of the blocks."""
    found: dict[int, Wide] = {}
    padding = -values.shape[1] % BLOCK_SIZES[-1]
    peaks, width = np.pad(np.abs(values), ((0, 0), (0, padding))), 1  # of blocks of that width
    blocks = {size: -(-values.shape[1] // size) for size in BLOCK_SIZES}
    while width < BLOCK_SIZES[-1]:
        peaks, width = np.maximum(peaks[:, ::2], peaks[:, 1::2]), width * 2
        if width in blocks:
            found[width] = np.square(peaks[:, : blocks[width]], dtype=np.float64).sum(0)
    return found
