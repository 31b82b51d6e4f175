"""Rows on a program whose cache grows: each call takes keys and values in and puts longer ones out, as Optimum's graphs do.

The static cache of decode.py is faster, for here every call copies the whole cache. Rows of one length run together, so nothing
is ever padded and it does not matter how a graph counts positions or masks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.cache import check_room, inherited
from edgelm.host_memory import buffer
from edgelm.protocols import Logits
from edgelm.session import Program, value
from edgelm.signature import CacheGeometry

if TYPE_CHECKING:
    from onnxruntime import OrtValue

Values = Mapping[str, "OrtValue"]

# Tokens of one prefill call, as in decode.py.
PREFILL_CHUNK = 512


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
            for i in range(len(geometry.layers))
            for kind in signature.KINDS
        }
        nothing = {} if sources else {name: value(array) for name, array in _arrays(geometry, 0).items()}
        self._groups = [_Group([row], 0, nothing, [row], {}) for row in range(batch)]
        self._geometry = geometry
        self.ids: list[list[int]] = [[] for _ in range(batch)]
        self.vocab_size = vocab_size
        self.limit = limit

    @property
    def batch(self) -> int:
        """Sequences still in the batch."""
        return len(self.ids)

    @property
    def log_probabilities(self) -> Logits | None:
        """None: these programs do not tell."""
        return None

    def start(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Logits]]:
        """Feeds every row its prompt; gives (row, logits [vocab_size] after its last token) as they are done."""
        if len(prompts) > 1 and not self._sources and all(len(ids) == 1 for ids in prompts):
            yield from enumerate(self.step([ids[0] for ids in prompts]))
            return
        for row, ids in enumerate(prompts):
            yield row, self.prefill(row, ids)

    def prefill(self, row: int, ids: Sequence[int]) -> Logits:
        """Feeds a row's prompt (or more of it) and returns the logits [vocab_size] after its last token."""
        *_, logits = self.prefill_chunks(row, ids)
        return cast(Logits, logits)

    def prefill_chunks(self, row: int, ids: Sequence[int]) -> Iterator[Logits | None]:
        """The same, at most PREFILL_CHUNK tokens from one item to the next; only the last item is logits."""
        for start, piece in self._pieces(row, ids, PREFILL_CHUNK):
            last = start + piece.shape[1] == len(ids)
            logits = self._feed(self._alone(row), piece, int(last))
            yield logits[0, 0] if last else None

    def all_logits(self, row: int, ids: Sequence[int], chunk: int = PREFILL_CHUNK) -> Iterator[Logits]:
        """Feeds a row and yields the logits of every position, [tokens, vocab_size] a chunk."""
        for _, piece in self._pieces(row, ids, chunk):
            yield self._feed(self._alone(row), piece, piece.shape[1])[0]

    def step(self, ids: Sequence[int]) -> Logits:
        """Feeds one token a row; returns the logits [batch, vocab_size]."""
        self._groups = [_joined(alike) for alike in _by_length(self._groups)]
        found = buffer((len(ids), self.vocab_size), "float32")
        given = np.array(ids, np.int64)
        for group in self._groups:
            found[group.rows] = self._feed(group, given[group.rows, None], 1)[:, 0]
        return found

    def undoable(self, most: int) -> int:
        """How many tokens the only row could be fed after its next one and forget again: any number where it takes several."""
        return 0 if self._sources else most

    def verify(self, ids: Sequence[int]) -> Logits:
        """Feeds the only row several tokens in one call; returns the logits [tokens, vocab_size] after each."""
        return next(self.all_logits(0, ids, len(ids)))

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
        self.ids = inherited(self.ids, parents)

    def allow(self, limit: int) -> None:
        """Rows may take so many positions from now on."""
        self.limit = limit

    def truncate(self, row: int, length: int) -> None:
        """Forgets what a row was fed beyond `length` tokens."""
        group = self._alone(row)
        if length >= group.length:
            return
        # A copy also where a slice is contiguous: what numpy() gives ends with its value.
        group.past = {name: value(given.numpy()[:, :, :length].copy()) for name, given in group.past.items()}
        group.length = length
        del self.ids[row][length:]

    def holds(self, row: int, length: int, total: int) -> bool:
        """Whether a row could go back to `length` tokens and on to `total`, which is always so."""
        return True

    def copy(self, row: int, length: int) -> GrowingDecoder:
        """A decoder of one row that goes on from the first `length` tokens of this one; for programs without a source."""
        found = GrowingDecoder(self._program, self._geometry, self.vocab_size, batch=1, limit=self.limit)
        for target, source in zip(found.hold(self.ids[row][:length]), self.held(row), strict=True):
            target[...] = source[:, :length]
        return found

    def detach(self, row: int) -> GrowingDecoder:
        """A decoder of one row for a row that leaves: this very decoder if there is no other, else a copy."""
        return self if self.batch == 1 else self.copy(row, len(self.ids[row]))

    def append(self, other: GrowingDecoder) -> int:
        """Adds the only row of another decoder on the same program, which is not used any more; returns its number here."""
        (group,) = other._groups
        group.rows = [self.batch]
        self._groups.append(group)
        self.limit = max(self.limit, other.limit)
        self.ids += other.ids
        return self.batch - 1

    def held(self, row: int) -> list[NDArray[Any]]:
        """Views [heads, tokens, head_dim] of what the cache holds of a row."""
        group = next(group for group in self._groups if row in group.rows)
        return [given.numpy()[group.rows.index(row)] for given in group.past.values()]

    def hold(self, ids: Sequence[int]) -> list[NDArray[Any]]:
        """Makes the only row one that was fed `ids`; what the cache holds of them is to be written into these arrays."""
        arrays = _arrays(self._geometry, len(ids))
        past = {name: value(array) for name, array in arrays.items()}
        self._groups = [_Group([0], len(ids), past, [0], {})]
        self.ids = [list(ids)]
        return [array[0] for array in arrays.values()]

    def _alone(self, row: int) -> _Group:
        """The group of that row, which is taken out of a larger one."""
        for i, group in enumerate(self._groups):
            if row not in group.rows or group.rows == [row]:
                continue
            rest = [place for place, other in enumerate(group.rows) if other != row]
            alone = _taken(group, [row], [group.rows.index(row)])
            self._groups[i : i + 1] = [alone, _taken(group, [group.rows[place] for place in rest], rest)]
        return next(group for group in self._groups if group.rows == [row])

    def _pieces(self, row: int, ids: Sequence[int], chunk: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Where each piece of a row's tokens begins, and the piece [1, tokens]."""
        if self._sources:  # their first program takes all there is, the other a token at a time
            chunk = 1 if self._alone(row).length else max(1, len(ids))
        for start in range(0, len(ids), chunk):
            yield start, np.array([ids[start : start + chunk]], np.int64)

    def _feed(self, group: _Group, ids: NDArray[np.int64], asked: int) -> Logits:
        """Runs ids [rows, count] of a group; returns the logits [rows, asked, vocab_size] of the last positions."""
        rows, count = ids.shape
        total = group.length + count
        check_room(total, self.limit)
        own: dict[str, NDArray[Any]] = {
            signature.INPUT_IDS: ids,
            signature.LOGITS_INDEX: _counted(count - asked, count, rows),
        }
        if self._sources and not group.length:
            return self._begin(group, own)
        own[signature.ATTENTION_MASK] = np.ones((rows, total), np.int64)
        own[signature.POSITION_IDS] = _counted(group.length, total, rows)
        feeds = {**_values(own, self._inputs), **group.past}
        feeds |= {name: given for name, given in group.memory.items() if name in self._inputs}
        found = self._program.run_values(feeds, [signature.LOGITS, *self._present.values()])
        return self._grown(group, ids, found)

    def _begin(self, group: _Group, own: Mapping[str, NDArray[Any]]) -> Logits:
        """The first tokens of the one row of a group: its source is read, and keys and values of that are kept."""
        (number,) = group.sources
        source = self._sources[number]
        mask = np.ones(source.hidden_states.shape[:2], np.int64)
        read = {signature.ENCODER_HIDDEN_STATES: source.hidden_states, signature.ENCODER_ATTENTION_MASK: mask}
        feeds = _values({**own, **read}, source.program.inputs)
        found = source.program.run_values(feeds, [signature.LOGITS, *self._present.values(), *self._cross])
        group.memory = {name: found[name] for name in self._cross} | {signature.ENCODER_ATTENTION_MASK: value(mask)}
        return self._grown(group, own[signature.INPUT_IDS], found)

    def _grown(self, group: _Group, ids: NDArray[np.int64], found: Values) -> Logits:
        group.past = {name: found[output] for name, output in self._present.items()}
        group.length += ids.shape[1]
        for row, fed in zip(group.rows, ids.tolist(), strict=True):
            self.ids[row] += fed
        return found[signature.LOGITS].numpy().copy()  # what numpy() gives ends with its value


def _arrays(geometry: CacheGeometry, length: int) -> dict[str, NDArray[Any]]:
    """Room for keys and values of so many tokens, of one row, by name of the input."""
    return {
        signature.past(i, kind): buffer((1, layer.num_key_value_heads, length, layer.head_dim), geometry.dtype)
        for i, layer in enumerate(geometry.layers)
        for kind in signature.KINDS
    }


def _counted(start: int, stop: int, rows: int) -> NDArray[np.int64]:
    """The numbers from start to stop for each row, [rows, stop - start]."""
    return np.repeat(np.arange(start, stop, dtype=np.int64)[None], rows, axis=0)


def _values(arrays: Mapping[str, NDArray[Any]], taken: Collection[str]) -> dict[str, OrtValue]:
    """Those of the arrays that a program takes."""
    return {name: value(array) for name, array in arrays.items() if name in taken}


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
