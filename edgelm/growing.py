"""Rows on a program whose cache grows: each call takes keys and values in and puts longer ones out, as Optimum's graphs do.

The static cache of decode.py is faster, for here every call copies the whole cache. Rows of one length run together, so nothing
is ever padded and it does not matter how a graph counts positions or masks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.cache import check_room
from edgelm.session import Program, buffer, value
from edgelm.signature import CacheGeometry

if TYPE_CHECKING:
    from onnxruntime import OrtValue

Logits = NDArray[np.float32]
Values = Mapping[str, "OrtValue"]

# Tokens of one prefill call. The graph puts out the logits of all of them: 80 MB over a vocabulary of 150k.
PREFILL_CHUNK = 128


@dataclass(frozen=True)
class Source:
    """What an encoder made of a source, float32 [1, source, hidden_size], and the program that reads it at the beginning.

    It takes any number of tokens, and puts out the keys and values of the source, [1, heads, source, head_dim], as well.
    """

    program: Program
    hidden_states: NDArray[np.float32]


@dataclass
class _Group:
    """Rows of the batch that have `length` tokens each, in the order of `rows`."""

    rows: list[int]
    length: int
    past: Values  # keys and values [rows, heads, length, head_dim] by name of the input
    sources: list[int]  # which source each row reads, by its number
    memory: Values  # what rows read of them, [rows, ...]


class GrowingDecoder:
    """Sequences being decoded together on a program with a growing cache."""

    def __init__(
        self,
        program: Program,
        geometry: CacheGeometry,
        vocab_size: int,
        *,
        batch: int,
        limit: int,
        sources: Sequence[Source] = (),
    ) -> None:
        """Takes what decode.Decoder takes; `sources` are those of an encoder-decoder, one a row."""
        self._program = program
        self._sources = sources
        self._inputs = frozenset(program.inputs)
        self._cross = [port.name for port in signature.cross_ports(geometry)] if sources else []
        # The name of each cache output by that of its input.
        self._present = {
            signature.past(i, kind): signature.present(i, kind)
            for i in range(geometry.num_layers)
            for kind in signature.KINDS
        }
        empty = buffer((1, geometry.num_key_value_heads, 0, geometry.head_dim), geometry.dtype)
        nothing = {} if sources else {name: value(empty) for name in self._present}
        self._groups = [_Group([row], 0, nothing, [row], {}) for row in range(batch)]
        self.vocab_size = vocab_size
        self.limit = limit

    @property
    def batch(self) -> int:
        """Sequences still in the batch."""
        return sum(len(group.rows) for group in self._groups)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        lengths = {row: group.length for group in self._groups for row in group.rows}
        return [lengths[row] for row in range(len(lengths))]

    def start(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Logits]]:
        """Feeds every row its prompt; gives (row, logits [vocab_size] after its last token) as they are done."""
        if len(prompts) > 1 and not self._sources and all(len(ids) == 1 for ids in prompts):
            yield from enumerate(self.step([ids[0] for ids in prompts]))
            return
        for row, ids in enumerate(prompts):
            yield row, self.prefill(row, ids)

    def prefill(self, row: int, ids: Sequence[int]) -> Logits:
        """Feeds a row's prompt (or more of it) and returns the logits [vocab_size] after its last token."""
        (logits,) = deque(self.all_logits(row, ids), maxlen=1)
        return logits[-1]

    def all_logits(self, row: int, ids: Sequence[int], chunk: int = PREFILL_CHUNK) -> Iterator[Logits]:
        """Feeds a row and yields the logits of every position, [tokens, vocab_size] a chunk."""
        group = self._alone(row)
        if self._sources:  # its first program takes all there is, the other a token at a time
            chunk = 1 if group.length else max(1, len(ids))
        for start in range(0, len(ids), chunk):
            yield self._feed(group, np.array([ids[start : start + chunk]], np.int64))[0]

    def step(self, ids: Sequence[int]) -> Logits:
        """Feeds one token a row; returns the logits [batch, vocab_size]."""
        self._groups = [_joined(list(alike)) for alike in _by_length(self._groups)]
        found = buffer((len(ids), self.vocab_size), "float32")
        given = np.array(ids, np.int64)
        for group in self._groups:
            found[group.rows] = self._feed(group, given[group.rows, None])[:, -1]
        return found

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from where row parents[i] is; there may be fewer rows than before, or more."""
        heirs: dict[int, list[int]] = {}
        for row, parent in enumerate(parents):
            heirs.setdefault(parent, []).append(row)
        kept: list[_Group] = []
        for group in self._groups:
            pairs = sorted((row, place) for place, parent in enumerate(group.rows) for row in heirs.get(parent, ()))
            if pairs:
                kept.append(_taken(group, [row for row, _ in pairs], [place for _, place in pairs]))
        self._groups = kept

    def _alone(self, row: int) -> _Group:
        """The group of that row, which is taken out of a larger one."""
        for i, group in enumerate(self._groups):
            if row not in group.rows or group.rows == [row]:
                continue
            rest = [place for place, other in enumerate(group.rows) if other != row]
            alone = _taken(group, [row], [group.rows.index(row)])
            self._groups[i : i + 1] = [alone, _taken(group, [group.rows[place] for place in rest], rest)]
        return next(group for group in self._groups if group.rows == [row])

    def _feed(self, group: _Group, ids: NDArray[np.int64]) -> Logits:
        """Runs ids [rows, count] of a group; returns logits [rows, positions, vocab_size], the last one's among them."""
        rows, count = ids.shape
        total = group.length + count
        check_room(total, self.limit)
        if self._sources and not group.length:
            return self._begin(group, ids)
        own: dict[str, NDArray[np.int64]] = {
            signature.INPUT_IDS: ids,
            signature.ATTENTION_MASK: np.ones((rows, total), np.int64),
            signature.POSITION_IDS: np.tile(np.arange(group.length, total, dtype=np.int64), (rows, 1)),
        }
        feeds = {name: value(array) for name, array in own.items() if name in self._inputs}
        feeds |= {name: given for name, given in group.memory.items() if name in self._inputs}
        found = self._program.run_values({**feeds, **group.past}, [signature.LOGITS, *self._present.values()])
        return self._grown(group, total, found)

    def _begin(self, group: _Group, ids: NDArray[np.int64]) -> Logits:
        """The first tokens of the one row of a group: the source is read, and its keys and values are kept."""
        (number,) = group.sources
        source = self._sources[number]
        mask = np.ones(source.hidden_states.shape[:2], np.int64)
        own = {
            signature.INPUT_IDS: ids,
            signature.ENCODER_HIDDEN_STATES: source.hidden_states,
            signature.ENCODER_ATTENTION_MASK: mask,
        }
        taken = source.program.inputs
        feeds = {name: value(array) for name, array in own.items() if name in taken}
        outputs = [signature.LOGITS, *self._present.values(), *self._cross]
        found = source.program.run_values(feeds, outputs)
        group.memory = {name: found[name] for name in self._cross} | {signature.ENCODER_ATTENTION_MASK: value(mask)}
        return self._grown(group, ids.shape[1], found)

    def _grown(self, group: _Group, length: int, found: Values) -> Logits:
        group.past = {name: found[output] for name, output in self._present.items()}
        group.length = length
        return found[signature.LOGITS].numpy().copy()  # what numpy() gives ends with its value


def _by_length(groups: Iterable[_Group]) -> Iterable[list[_Group]]:
    alike: dict[int, list[_Group]] = {}
    for group in groups:
        alike.setdefault(group.length, []).append(group)
    return alike.values()


def _joined(groups: Sequence[_Group]) -> _Group:
    """One group of all these rows, which have the same length; shorter sources are padded on the right."""
    first = groups[0]
    if len(groups) == 1:
        return first
    return _Group(
        [row for group in groups for row in group.rows],
        first.length,
        {name: _stacked([group.past[name] for group in groups]) for name in first.past},
        [source for group in groups for source in group.sources],
        {name: _stacked([group.memory[name] for group in groups]) for name in first.memory},
    )


def _stacked(parts: Sequence[OrtValue]) -> OrtValue:
    """Arrays [rows, ...] below each other, filled up with zeros to the largest."""
    arrays = [part.numpy() for part in parts]
    rows = sum(len(array) for array in arrays)
    sizes = np.max([array.shape[1:] for array in arrays], axis=0)
    whole = buffer((rows, *map(int, sizes)), arrays[0].dtype.name)
    row = 0
    for array in arrays:
        whole[(slice(row, row + len(array)), *map(slice, array.shape[1:]))] = array
        row += len(array)
    return value(whole)


def _taken(group: _Group, rows: list[int], places: list[int]) -> _Group:
    """A group whose rows go on from those at `places`; what all rows keep is not copied."""
    if places == list(range(len(group.rows))):
        return _Group(rows, group.length, group.past, group.sources, group.memory)
    sources = [group.sources[place] for place in places]
    memory = group.memory if sources == group.sources else _picked(group.memory, places)
    return _Group(rows, group.length, _picked(group.past, places), sources, memory)


def _picked(values: Values, places: Sequence[int]) -> dict[str, Any]:
    return {name: value(one.numpy()[list(places)]) for name, one in values.items()}
