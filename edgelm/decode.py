"""The loop on token ids: prefill, decode step. One batch of sequences on one cache; text, samplers and stopping live above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.cache import StaticKVCache
from edgelm.session import Binding, Program, buffer
from edgelm.signature import CacheGeometry

Logits = NDArray[np.float32]

# Tokens of one prefill call. More gains no speed on a CPU and costs activations in memory.
PREFILL_CHUNK = 512


class Decoder:
    """Sequences being decoded together: a program, its cache, and buffers bound once and written in place."""

    def __init__(self, program: Program, geometry: CacheGeometry, vocab_size: int, *, batch: int, limit: int) -> None:
        self._program = program
        self._vocab_size = vocab_size
        self.cache = StaticKVCache(geometry, batch, limit)
        self._step: _Call | None = None

    @property
    def batch(self) -> int:
        """Sequences still in the batch."""
        return len(self.cache.lengths)

    def prefill(self, row: int, ids: Sequence[int]) -> Logits:
        """Feeds a row's prompt (or more of it) and returns the logits [vocab_size] after its last token."""
        logits = buffer((0,), "float32")
        chunks = range(0, len(ids), PREFILL_CHUNK)
        for start in chunks:
            last = start == chunks[-1]
            logits = self._feed(row, ids[start : start + PREFILL_CHUNK], last_only=True, wanted=last)
        return logits[0]

    def all_logits(self, row: int, ids: Sequence[int], chunk: int = PREFILL_CHUNK) -> Iterator[Logits]:
        """Feeds a row and yields the logits of every position, [tokens, vocab_size] a chunk."""
        for start in range(0, len(ids), chunk):
            yield self._feed(row, ids[start : start + chunk], last_only=False, wanted=True)

    def step(self, ids: Sequence[int]) -> Logits:
        """Feeds one token a row; returns logits [batch, vocab_size] in a buffer that the next step overwrites."""
        lengths = self.cache.lengths
        moved = self.cache.reserve(max(lengths) + 1)
        if self._step is None or moved:
            self._step = _Call(self._program, self.cache, (0, self.batch), (1, 1), self._vocab_size)
        self._step.input_ids[:, 0] = ids
        self._step.run(lengths, 1)
        for row in range(len(lengths)):
            self.cache.advance(row, 1)
        return self._step.logits[:, 0]

    def drop(self, row: int) -> None:
        """Takes a finished row out; the last row takes its place."""
        last = self.batch - 1
        if row != last:
            self.cache.move(last, row)
        self.cache.shrink(last)
        self._step = None

    def _feed(self, row: int, ids: Sequence[int], *, last_only: bool, wanted: bool) -> Logits:
        count = len(ids)
        if self.cache.reserve(self.cache.lengths[row] + count):
            self._step = None
        asked = (1 if last_only else count) if wanted else 0
        call = _Call(self._program, self.cache, (row, row + 1), (count, asked), self._vocab_size)
        call.input_ids[0] = ids
        call.logits_index[0] = np.arange(count - asked, count)
        call.run(self.cache.lengths[row : row + 1], count)
        self.cache.advance(row, count)
        return call.logits[0]


class _Call:
    """The buffers of one shape of call, bound. Rows of the cache are bound as views, so nothing is copied."""

    def __init__(
        self, program: Program, cache: StaticKVCache, rows: tuple[int, int], shape: tuple[int, int], vocab_size: int
    ) -> None:
        batch, (sequence, asked) = rows[1] - rows[0], shape
        self.input_ids = buffer((batch, sequence), "int64")
        self.logits_index = buffer((batch, asked), "int64")
        self.logits = buffer((batch, asked, vocab_size), "float32")
        self._seqlens_k = buffer((batch,), "int32")
        self._total = buffer((), "int32")
        self._binding: Binding = program.binding()
        past, present = cache.rows(*rows)
        own = {
            signature.INPUT_IDS: self.input_ids,
            signature.SEQLENS_K: self._seqlens_k,
            signature.TOTAL_SEQUENCE_LENGTH: self._total,
            signature.LOGITS_INDEX: self.logits_index,
        }
        self._binding.bind({**own, **past}, {signature.LOGITS: self.logits, **present})

    def run(self, lengths: Sequence[int], count: int) -> None:
        """Runs with `count` new tokens a row after `lengths` valid ones."""
        self._seqlens_k[:] = [length + count - 1 for length in lengths]
        self._total[...] = max(lengths) + count
        self._binding.run()
