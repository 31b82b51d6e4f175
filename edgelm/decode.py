"""One batch of sequences on one cache: prefill, decode step, reorder. Ids in, logits out; which ids, and until when, is search.py's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.cache import StaticKVCache
from edgelm.long_context import LongContext
from edgelm.search import Rows
from edgelm.session import Array, Binding, Program, buffer
from edgelm.signature import CacheGeometry

Logits = NDArray[np.float32]

# Tokens of one prefill call. More gains no speed on a CPU and costs activations in memory.
PREFILL_CHUNK = 512


class Memory(Protocol):
    """What rows read besides their cache, such as an encoder's output (memory.py)."""

    def inputs(self, start: int, stop: int) -> Mapping[str, Array]:
        """What to bind for these rows, by the name of the input; it must stay in place until `reorder`."""
        ...

    def reorder(self, parents: Sequence[int]) -> bool:
        """Row i reads from now on what row parents[i] read; returns whether that must be bound anew."""
        ...


class DecoderRows(Rows, Protocol):
    """What is needed of a decoder besides a search: prompts fed row by row, logits wherever they are asked for."""

    @property
    def batch(self) -> int:
        """Sequences still in the batch."""
        ...

    def prefill(self, row: int, ids: Sequence[int]) -> Logits:
        """Feeds a row's prompt (or more of it) and returns the logits [vocab_size] after its last token."""
        ...

    def all_logits(self, row: int, ids: Sequence[int], chunk: int = PREFILL_CHUNK) -> Iterator[Logits]:
        """Feeds a row and yields the logits of every position, [tokens, vocab_size] a chunk."""
        ...


class Decoder:
    """Sequences being decoded together: a program, its cache, and buffers bound once and written in place."""

    def __init__(
        self,
        program: Program,
        geometry: CacheGeometry,
        vocab_size: int,
        *,
        batch: int,
        limit: int,
        memory: Memory | None = None,
    ) -> None:
        self._program = program
        self._memory = memory
        self._step: _Call | None = None
        self.vocab_size = vocab_size
        self.cache = StaticKVCache(geometry, batch, limit, program.memory)
        short = geometry.short_context
        self._long = None if short is None else LongContext(short, batch)

    @property
    def batch(self) -> int:
        """Sequences still in the batch."""
        return len(self.cache.lengths)

    @property
    def limit(self) -> int:
        """Most positions a row may take."""
        return self.cache.limit

    @property
    def log_probabilities(self) -> Logits | None:
        """Those of the logits that `step` gave last, in a buffer like theirs; None if the program does not tell."""
        if self._step is None or self._step.log_probabilities is None:
            return None
        return self._step.log_probabilities[:, 0]

    def start(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Logits]]:
        """Feeds every row its prompt; gives (row, logits [vocab_size] after its last token) as they are done."""
        if len(prompts) > 1 and all(len(ids) == 1 for ids in prompts):
            yield from enumerate(self.step([ids[0] for ids in prompts]))
            return
        for row, ids in enumerate(prompts):
            yield row, self.prefill(row, ids)

    def prefill(self, row: int, ids: Sequence[int]) -> Logits:
        """Feeds a row's prompt (or more of it) and returns the logits [vocab_size] after its last token."""
        self._grow(row, ids)
        logits = buffer((0,), "float32")
        chunks = range(0, len(ids), PREFILL_CHUNK)
        for start in chunks:
            last = start == chunks[-1]
            logits = self._feed(row, ids[start : start + PREFILL_CHUNK], last_only=True, wanted=last)
        return logits[0]

    def all_logits(self, row: int, ids: Sequence[int], chunk: int = PREFILL_CHUNK) -> Iterator[Logits]:
        """Feeds a row and yields the logits of every position, [tokens, vocab_size] a chunk."""
        self._grow(row, ids)
        for start in range(0, len(ids), chunk):
            yield self._feed(row, ids[start : start + chunk], last_only=False, wanted=True)

    def step(self, ids: Sequence[int]) -> Logits:
        """Feeds one token a row; returns logits [batch, vocab_size] in a buffer that the next step overwrites."""
        for row, token in enumerate(ids):
            self._grow(row, [token])
        lengths = self.cache.lengths
        moved = self.cache.reserve(max(lengths) + 1)
        if self._step is None or moved:
            self._step = self._call((0, self.batch), (1, 1), repeats=True)
        self._step.input_ids[:, 0] = ids
        self._step.run(lengths, 1, self._flags(0, self.batch))
        for row in range(len(lengths)):
            self.cache.advance(row, 1)
        return self._step.logits[:, 0]

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from where row parents[i] is; there may be fewer rows than before, or more."""
        before = self.batch
        if len(parents) == before and all(row == parent for row, parent in enumerate(parents)):
            return
        self.cache.reorder(parents)
        if self._long is not None:
            self._long.reorder(parents)
        moved = self._memory is not None and self._memory.reorder(parents)
        if moved or len(parents) != before:
            self._step = None

    def _grow(self, row: int, ids: Sequence[int]) -> None:
        """Called before a row is fed `ids`; what it has been fed may have to be fed again."""
        again = [] if self._long is None else self._long.grow(row, ids)
        if again:
            self.cache.truncate(row, 0)
            for start in range(0, len(again), PREFILL_CHUNK):
                self._feed(row, again[start : start + PREFILL_CHUNK], last_only=True, wanted=False)

    def _flags(self, start: int, stop: int) -> NDArray[np.int64] | None:
        return None if self._long is None else self._long.flags(start, stop)

    def _feed(self, row: int, ids: Sequence[int], *, last_only: bool, wanted: bool) -> Logits:
        count = len(ids)
        if self.cache.reserve(self.cache.lengths[row] + count):
            self._step = None
        asked = (1 if last_only else count) if wanted else 0
        call = self._call((row, row + 1), (count, asked))
        call.input_ids[0] = ids
        call.logits_index[0] = np.arange(count - asked, count)
        call.run(self.cache.lengths[row : row + 1], count, self._flags(row, row + 1))
        self.cache.advance(row, count)
        return call.logits[0]

    def _call(self, rows: tuple[int, int], shape: tuple[int, int], *, repeats: bool = False) -> _Call:
        past, present = self.cache.rows(*rows)
        if self._memory is not None:
            past = {**past, **self._memory.inputs(*rows)}
        binding = self._program.binding(repeats=repeats)
        # What is captured runs with the numbers of the first time: lengths that change must lie in buffers.
        total = self.cache.max_length if binding.captured else None
        return _Call(self._program, binding, past, present, (rows[1] - rows[0], *shape, self.vocab_size), total)


class _Call:
    """The buffers of one shape of call, bound. Rows of cache and memory are bound as views, so nothing is copied."""

    def __init__(
        self,
        program: Program,
        binding: Binding,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        shape: tuple[int, int, int, int],
        total: int | None,
    ) -> None:
        """Takes the shape as rows, tokens a row, positions whose logits are wanted, vocabulary.

        `total` stands for the length of the longest row: any that is no shorter gives the same, for each row has its own.
        """
        batch, sequence, asked, vocab_size = shape
        self.input_ids = buffer((batch, sequence), "int64")
        self.logits_index = buffer((batch, asked), "int64")
        self.logits = buffer((batch, asked, vocab_size), "float32")
        tells = signature.LOG_PROBABILITIES in program.outputs
        self.log_probabilities = buffer((batch, asked, vocab_size), "float32") if tells else None
        self._seqlens_k = buffer((batch,), "int32")
        self._total = buffer((), "int32")
        self._long = buffer((batch,), "int64")
        self._fixed_total = total
        self._binding = binding
        own = {
            signature.INPUT_IDS: self.input_ids,
            signature.SEQLENS_K: self._seqlens_k,
            signature.TOTAL_SEQUENCE_LENGTH: self._total,
            signature.LOGITS_INDEX: self.logits_index,
        }
        if signature.LONG_CONTEXT in program.inputs:
            own[signature.LONG_CONTEXT] = self._long
        found = {signature.LOGITS: self.logits}
        if self.log_probabilities is not None:
            found[signature.LOG_PROBABILITIES] = self.log_probabilities
        self._binding.bind({**own, **inputs}, {**found, **outputs})

    def run(self, lengths: Sequence[int], count: int, long: NDArray[np.int64] | None) -> None:
        """Runs with `count` new tokens a row after `lengths` valid ones; `long` says which rows are."""
        if long is not None:
            self._long[:] = long
        self._seqlens_k[:] = [length + count - 1 for length in lengths]
        self._total[...] = max(lengths) + count if self._fixed_total is None else self._fixed_total
        self._binding.run()
