"""The loop on ids of an encoder: rows of token ids in, what the graph says about each out; rows of like length run together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.session import Program

Array = NDArray[np.float32]
Result = TypeVar("Result")

# Parameters times tokens from which one text alone is worth all threads.
_WIDE_WORK = 5e9


@dataclass(frozen=True)
class Row:
    """One text on its way: its ids, their token types, and the positions whose logits are wanted (masked models only)."""

    ids: Sequence[int]
    type_ids: Sequence[int] | None = None
    positions: Sequence[int] = ()


@dataclass(frozen=True)
class Grouping:
    """Which rows may run together: so many tokens, padding included, and of different lengths only where they are padded."""

    tokens: int = 1
    pads: bool = False


def buckets(lengths: Sequence[int], batch_size: int, grouping: Grouping) -> list[list[int]]:
    """Indices of rows that run together, longest first, at most `batch_size`."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    result: list[list[int]] = []
    longest = 0  # of the last bucket: its first
    for i in order:
        fits = bool(result) and len(result[-1]) < batch_size and (len(result[-1]) + 1) * longest <= grouping.tokens
        if not fits or not (grouping.pads or lengths[i] == longest):
            result.append([])
            longest = lengths[i]
        result[-1].append(i)
    return result


@dataclass(frozen=True)
class Threads:
    """How an encoder shares out its threads: a bucket each, or all of them on one large bucket."""

    workers: int = 1
    wide: Callable[[], Program] | None = None  # loads the program once more, to run on all threads at once
    parameters: int = 0


class Encoder:
    """Runs an encoder program over any number of rows."""

    def __init__(
        self,
        program: Program,
        pad_token_id: int,
        grouping: Grouping | None = None,
        threads: Threads | None = None,
    ) -> None:
        """Takes a loaded program.

        Args:
            program: is called from several threads at once.
            pad_token_id: what short rows are filled up with.
            grouping: every row runs alone by default.
            threads: one by default.
        """
        self.program = program
        self._pad = pad_token_id
        self._grouping = grouping or Grouping()
        self._threads = threads or Threads()
        self._inputs = frozenset(program.inputs)
        self._wide: Program | None = None

    @property
    def names(self) -> list[str]:
        """What the graph puts out."""
        return self.program.outputs

    def run(
        self,
        rows: Sequence[Row],
        output: str,
        batch_size: int,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, Array]]:
        """Yields (index, output) of each row as buckets finish, padding cut off.

        Args:
            output: name of the graph's output that is wanted.
            batch_size: most rows of a bucket.
            advance: told how many rows were done.
        """
        lengths = [len(row.ids) for row in rows]
        groups = buckets(lengths, batch_size, self._grouping)
        program = self._program_for(len(groups), max(lengths, default=0))

        def one(group: list[int]) -> Array:
            return program.run(self._feeds([rows[i] for i in group]), [output])[0]

        for group, found in zip(groups, self._mapped(one, groups), strict=True):
            for i, values in zip(group, found, strict=True):
                yield i, _without_padding(values, rows[i], found.ndim)
            advance(len(group))

    def alone(self, rows: Sequence[Row], names: Sequence[str]) -> Iterator[list[Array]]:
        """Those outputs of the graph for each row by itself, in their order, as many rows at a time as there are threads."""
        program = self._program_for(len(rows), max((len(row.ids) for row in rows), default=0))

        def one(group: list[int]) -> list[Array]:
            return program.run(self._feeds([rows[i] for i in group]), names)

        yield from self._mapped(one, [[i] for i in range(len(rows))])

    def _mapped(self, one: Callable[[list[int]], Result], groups: list[list[int]]) -> Iterator[Result]:
        if self._threads.workers == 1 or len(groups) == 1:
            yield from map(one, groups)
            return
        with ThreadPoolExecutor(self._threads.workers) as pool:
            # Results wait for their turn, and those of large heads are large: few may be ahead.
            ahead: deque[Future[Result]] = deque()
            for group in groups:
                ahead.append(pool.submit(one, group))
                if len(ahead) > 2 * self._threads.workers:
                    yield ahead.popleft().result()
            yield from (future.result() for future in ahead)

    def _program_for(self, groups: int, longest: int) -> Program:
        """Few large buckets would leave threads idle."""
        wide = self._threads.wide
        if wide is None or groups >= self._threads.workers or longest * self._threads.parameters < _WIDE_WORK:
            return self.program
        if self._wide is None:
            self._wide = wide()
        return self._wide

    def outputs(self, rows: Sequence[Row], names: Sequence[str]) -> list[Array]:
        """Those outputs of the graph for rows that run together, padding included."""
        return self.program.run(self._feeds(rows), names)

    def _feeds(self, rows: Sequence[Row]) -> Mapping[str, NDArray[Any]]:
        """What the graph takes: rows filled up on the right to the longest."""
        shape = (len(rows), max(len(row.ids) for row in rows))
        ids, mask = np.full(shape, self._pad, np.int64), np.zeros(shape, np.int64)
        types = np.zeros(shape, np.int64)
        asked = np.zeros((len(rows), max(1, *(len(row.positions) for row in rows))), np.int64)
        for r, row in enumerate(rows):
            n = len(row.ids)
            ids[r, :n], mask[r, :n] = row.ids, 1
            if row.type_ids is not None:
                types[r, :n] = row.type_ids
            asked[r, : len(row.positions)] = row.positions
        feeds = {
            signature.INPUT_IDS: ids,
            signature.ATTENTION_MASK: mask,
            signature.TOKEN_TYPE_IDS: types,
            signature.LOGITS_INDEX: asked,
        }
        return {name: array for name, array in feeds.items() if name in self._inputs}


def _without_padding(values: Array, row: Row, axes: int) -> Array:
    if axes < 3:
        return values
    return values[: len(row.positions) if row.positions else len(row.ids)]
