"""One batch of sequences on one cache: prefill, decode step, reorder. Ids in, logits out; which ids, and until when, is search.py's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.cache import StaticKVCache, inherited
from edgelm.host_memory import buffer
from edgelm.long_context import LongContext
from edgelm.protocols import Logits
from edgelm.session import Array, Binding, Program
from edgelm.signature import CacheGeometry

# Tokens of one prefill call. The fused attention multiplies each query of a call with all its keys, those behind it too, so calls of
# 512 tokens take 1.17 (int4) to 1.5 times (int8-rows) as long as these (SmolLM2, prompts of 512 and 2,048 tokens); with 64 a mixture's
# experts get too few tokens each. Fewer also cost less memory for activations.
PREFILL_CHUNK = 192


class Memory(Protocol):
    """What rows read besides their cache, such as an encoder's output (memory.py)."""

    def inputs(self, start: int, stop: int) -> Mapping[str, Array]:
        """What to bind for these rows, by the name of the input; it must stay in place until `reorder`."""
        ...

    def reorder(self, parents: Sequence[int]) -> bool:
        """Row i reads from now on what row parents[i] read; returns whether that must be bound anew."""
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
        self._geometry = geometry
        self._memory = memory
        self._step: _Call | None = None
        self._verification: _Call | None = None
        self.vocab_size = vocab_size
        self.cache = StaticKVCache(geometry, batch, limit, program.memory)
        self.ids: list[list[int]] = [[] for _ in range(batch)]
        short = geometry.short_context
        self._long = None if short is None else LongContext(short, batch)

    @property
    def batch(self) -> int:
        """Sequences still in the batch."""
        return len(self.ids)

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
        *_, logits = self.prefill_chunks(row, ids)
        return cast(Logits, logits)

    def prefill_chunks(self, row: int, ids: Sequence[int]) -> Iterator[Logits | None]:
        """The same, at most PREFILL_CHUNK tokens from one item to the next; only the last item is logits."""
        fed = [*self._again(row, len(ids)), *ids]
        self._reserve(self.cache.lengths[row] + len(fed))  # at once, for growing copies what is there
        for start in range(0, len(fed), PREFILL_CHUNK):
            last = start + PREFILL_CHUNK >= len(fed)
            logits = self._feed(row, fed[start : start + PREFILL_CHUNK], asked=int(last))
            yield logits[0] if last else None

    def all_logits(self, row: int, ids: Sequence[int], chunk: int = PREFILL_CHUNK) -> Iterator[Logits]:
        """Feeds a row and yields the logits of every position, [tokens, vocab_size] a chunk."""
        self._feed_again(row, len(ids))
        for start in range(0, len(ids), chunk):
            part = ids[start : start + chunk]
            yield self._feed(row, part, asked=len(part))

    def step(self, ids: Sequence[int]) -> Logits:
        """Feeds one token a row; returns logits [batch, vocab_size] in a buffer that the next step overwrites."""
        if self._long is not None:
            for row in range(len(ids)):
                self._feed_again(row, 1)
        lengths = self.cache.lengths
        self._reserve(max(lengths) + 1)
        if self._step is None:
            self._step = self._call((0, self.batch), (1, 1), repeats=True)
        self._step.input_ids[:, 0] = ids
        self._step.run(lengths, 1, self._flags(0, self.batch))
        for row, token in enumerate(ids):
            self.cache.advance(row, 1)
            self.ids[row].append(token)
        return self._step.logits[:, 0]

    def undoable(self, most: int) -> int:
        """How many tokens the only row could be fed after its next one and forget again; `most` at most."""
        length = len(self.ids[0]) + 1
        if self._long is not None:
            most = self._long.room(length, most)
        return self.cache.undoable(length, most)

    def verify(self, ids: Sequence[int]) -> Logits:
        """Feeds the only row several tokens in one call; returns the logits [tokens, vocab_size] after each.

        They lie in a buffer that the next call overwrites, for calls of one length share what is bound.
        """
        self._feed_again(0, len(ids))
        count = len(ids)
        self._reserve(self.cache.lengths[0] + count)
        if self._verification is None or self._verification.input_ids.shape[1] != count:
            self._verification = self._call((0, 1), (count, count))
        return self._run(self._verification, 0, ids)

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on from where row parents[i] is; there may be fewer rows than before, or more."""
        before = self.batch
        if len(parents) == before and all(row == parent for row, parent in enumerate(parents)):
            return
        self.cache.reorder(parents)
        self.ids = inherited(self.ids, parents)
        if self._long is not None:
            self._long.reorder(parents)
        moved = self._memory is not None and self._memory.reorder(parents)
        if moved or len(parents) != before:
            self._unbind()

    def allow(self, limit: int) -> None:
        """Rows may take so many positions from now on."""
        self.cache.limit = limit

    def truncate(self, row: int, length: int) -> None:
        """Forgets what a row was fed beyond `length` tokens.

        Raises:
            GenerationError: a layer with a window has dropped what it would need again (see `holds`).
        """
        self.cache.truncate(row, length)
        del self.ids[row][length:]

    def holds(self, row: int, length: int, total: int) -> bool:
        """Whether a row could go back to `length` tokens and on to `total` without being fed any of them again.

        Not if a layer's window has moved on since, or if a LongRoPE has other keys for texts of that total.
        """
        return self.cache.holds(row, length) and (self._long is None or self._long.fits(row, total))

    def copy(self, row: int, length: int) -> Decoder:
        """A decoder of one row that goes on from the first `length` tokens of this one, which `holds` them."""
        found = Decoder(self._program, self._geometry, self.vocab_size, batch=1, limit=self.limit, memory=self._memory)
        found.cache = self.cache.copy(row, length)
        found.ids = [self.ids[row][:length]]
        if found._long is not None and self._long is not None:
            found._long.append(self._long)
            found._long.reorder([1 + row])
        return found

    def detach(self, row: int) -> Decoder:
        """A decoder of one row for a row that leaves: this very decoder if it has room for no other, else a copy."""
        if self.cache.room == 1:
            self._unbind()
            return self
        return self.copy(row, len(self.ids[row]))

    def append(self, other: Decoder) -> int:
        """Adds the only row of another decoder on the same program, which is not used any more; returns its number here."""
        self.cache.append(other.cache)
        self.ids += other.ids
        if self._long is not None and other._long is not None:
            self._long.append(other._long)
        self._unbind()
        return self.batch - 1

    def held(self, row: int) -> list[Any]:
        """Views [heads, positions, head_dim] of what the cache holds of a row; a window holds the last positions only."""
        return self.cache.held(row)

    def hold(self, ids: Sequence[int]) -> list[Any]:
        """Makes the only row one that was fed `ids`; what the cache holds of them is to be written into these arrays."""
        self.cache.truncate(0, 0)
        self.cache.reserve(len(ids))
        self.cache.advance(0, len(ids))
        self.ids = [list(ids)]
        if self._long is not None:
            self._long.turns(0, len(ids))
        return self.cache.held(0)

    def _again(self, row: int, count: int) -> list[int]:
        """Called before a row is fed `count` tokens: those to feed it once more before them, for it has been emptied."""
        if self._long is None or not self._long.turns(row, len(self.ids[row]) + count):
            return []
        again, self.ids[row] = self.ids[row], []
        self.cache.truncate(row, 0)
        return again

    def _feed_again(self, row: int, count: int) -> None:
        again = self._again(row, count)
        for start in range(0, len(again), PREFILL_CHUNK):
            self._feed(row, again[start : start + PREFILL_CHUNK], asked=0)

    def _flags(self, start: int, stop: int) -> NDArray[np.int64] | None:
        return None if self._long is None else self._long.flags(start, stop)

    def _feed(self, row: int, ids: Sequence[int], *, asked: int) -> Logits:
        """Feeds a row up to PREFILL_CHUNK tokens; returns the logits [asked, vocab_size] after the last ones."""
        count = len(ids)
        self._reserve(self.cache.lengths[row] + count)
        return self._run(self._call((row, row + 1), (count, asked)), row, ids)

    def _run(self, call: _Call, row: int, ids: Sequence[int]) -> Logits:
        """Feeds a row by a call of as many tokens; returns the logits of those that the call asks for, which are the last."""
        count, asked = len(ids), call.logits_index.shape[1]
        call.input_ids[0] = ids
        call.logits_index[0] = np.arange(count - asked, count)
        call.run(self.cache.lengths[row : row + 1], count, self._flags(row, row + 1))
        self.cache.advance(row, count)
        self.ids[row] += ids
        return call.logits[0]

    def _reserve(self, length: int) -> None:
        """Makes room for `length` positions a row; what is bound would keep the buffers that are replaced."""
        if length > self.cache.max_length:
            self._unbind()
            self.cache.reserve(length)

    def _unbind(self) -> None:
        """Buffers or rows are about to be others than those bound."""
        self._step = self._verification = None

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
        self._long: NDArray[np.int64] | None = None
        self._fixed_total = total
        self._binding = binding
        own = {
            signature.INPUT_IDS: self.input_ids,
            signature.SEQLENS_K: self._seqlens_k,
            signature.TOTAL_SEQUENCE_LENGTH: self._total,
            signature.LOGITS_INDEX: self.logits_index,
        }
        if signature.LONG_CONTEXT in program.inputs:
            own[signature.LONG_CONTEXT] = self._long = buffer((batch,), "int64")
        found = {signature.LOGITS: self.logits}
        if self.log_probabilities is not None:
            found[signature.LOG_PROBABILITIES] = self.log_probabilities
        self._binding.bind({**own, **inputs}, {**found, **outputs})

    def run(self, lengths: Sequence[int], count: int, long: NDArray[np.int64] | None) -> None:
        """Runs with `count` new tokens a row after `lengths` valid ones; `long` says which rows are."""
        if self._long is not None and long is not None:
            self._long[:] = long
        self._seqlens_k[:] = [length + count - 1 for length in lengths]
        self._total[...] = max(lengths) + count if self._fixed_total is None else self._fixed_total
        self._binding.run()
