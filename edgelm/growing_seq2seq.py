"""The programs of an encoder-decoder whose cache grows: sources in, a decoder that reads them out. As seq2seq.py, for Optimum's graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.encode import Encoder, Row
from edgelm.growing import GrowingDecoder, Source
from edgelm.session import Program
from edgelm.signature import CacheGeometry


@dataclass(frozen=True)
class GrowingSeq2Seq:
    """The loaded programs and what it takes to run them.

    Attributes:
        encoder: computes the hidden states of a source.
        first: takes the first tokens of a target; computes keys and values of the source as well.
        decoder: takes the tokens after them, one at a time.
        cache: the decoder's own KV cache.
        vocab_size: how many logits a token has.
        limit: most positions of a source, and of a target.
    """

    encoder: Encoder
    first: Program
    decoder: Program
    cache: CacheGeometry
    vocab_size: int
    limit: int

    def start(self, sources: Sequence[Sequence[int]], room: int | None = None) -> GrowingDecoder:
        """A decoder with one row a source, which takes no more than `room` positions, where that is known."""
        # Each alone, so that a source's text does not depend on its batch mates.
        encoded = self.encoder.alone([Row(ids) for ids in sources], [signature.ENCODER_HIDDEN_STATES])
        read = [Source(self.first, hidden_states) for (hidden_states,) in encoded]
        limit = self.limit if room is None else min(room, self.limit)
        return GrowingDecoder(self.decoder, self.cache, self.vocab_size, batch=len(sources), limit=limit, sources=read)

    def logits(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32]:
        """Teacher-forced logits, float32 [len(target), vocab_size]."""
        return np.concatenate(list(self.start([source]).all_logits(0, target)))
