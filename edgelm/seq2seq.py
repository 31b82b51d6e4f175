"""Both programs of an encoder-decoder on ids: sources in, a decoder that reads them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import signature
from edgelm.decode import Decoder
from edgelm.encode import Encoder, Row
from edgelm.host_memory import buffer
from edgelm.memory import SourceMemory
from edgelm.session import Program
from edgelm.signature import CacheGeometry


@dataclass(frozen=True)
class Seq2Seq:
    """The loaded programs and what it takes to run them.

    Attributes:
        encoder: computes keys and values of a source for every decoder layer.
        decoder: attends to them.
        cache: the decoder's own KV cache.
        vocab_size: how many logits a token has.
        limit: most positions of a source, and of a target.
    """

    encoder: Encoder
    decoder: Program
    cache: CacheGeometry
    vocab_size: int
    limit: int

    def start(self, sources: Sequence[Sequence[int]], room: int | None = None) -> Decoder:
        """A decoder with one row a source; its cache takes no more than `room` positions, where that is known."""
        memory = SourceMemory(self._encoded(sources))
        limit = self.limit if room is None else min(room, self.limit)
        return Decoder(self.decoder, self.cache, self.vocab_size, batch=len(sources), limit=limit, memory=memory)

    def logits(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32]:
        """Teacher-forced logits, float32 [len(target), vocab_size]."""
        return np.concatenate(list(self.start([source]).all_logits(0, target)))

    def _encoded(self, sources: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Keys and values of all sources, padded to the longest, and the mask that says so."""
        longest = max(map(len, sources))
        ports = signature.cross_ports(self.cache)
        arrays: dict[str, Any] = {}
        for port in ports:
            _, heads, _, head_dim = port.shape
            shape = (len(sources), int(heads), longest, int(head_dim))
            arrays[port.name] = self.decoder.memory.empty(shape, port.dtype)
        mask = buffer((len(sources), longest), "int64")
        # Each alone, so that a source's text does not depend on its batch mates.
        encoded = self.encoder.alone([Row(ids) for ids in sources], [port.name for port in ports])
        for i, (ids, found) in enumerate(zip(sources, encoded, strict=True)):
            for port, values in zip(ports, found, strict=True):
                arrays[port.name][i, :, : len(ids)] = values[0]
            mask[i, : len(ids)] = 1
        return {**arrays, signature.ENCODER_ATTENTION_MASK: mask}
