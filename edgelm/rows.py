"""Picks the loop for a package's programs by what the manifest says of them: on a static cache, or on one that grows."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm.adapters import AdapterMemory, Factors, no_adapter
from edgelm.decode import Decoder
from edgelm.encode import Encoder
from edgelm.growing import GrowingDecoder
from edgelm.growing_seq2seq import GrowingSeq2Seq
from edgelm.manifest import Manifest
from edgelm.protocols import DecoderRows
from edgelm.seq2seq import Seq2Seq
from edgelm.session import Program

# The programs of an encoder-decoder; the one in the middle is there where the cache grows.
ENCODER, FIRST, DECODER = "encoder", "decoder_start", "decoder"

AnySeq2Seq = Seq2Seq | GrowingSeq2Seq


def decoder_rows(
    manifest: Manifest, program: Program, *, batch: int, limit: int, adapter: Factors | None = None
) -> DecoderRows:
    """A batch of sequences on a decoder's program, with a cache of its own and one adapter, or none, for all of them.

    Raises:
        ManifestError: the package is no decoder.
    """
    cache, vocab_size = manifest.kv_cache, manifest.vocab_size
    if manifest.grows:
        return GrowingDecoder(program, cache, vocab_size, batch=batch, limit=limit)
    memory = AdapterMemory(no_adapter(program) if adapter is None else adapter)
    return Decoder(program, cache, vocab_size, batch=batch, limit=limit, memory=memory)


def seq2seq(manifest: Manifest, encoder: Encoder, programs: Mapping[str, Program], limit: int) -> AnySeq2Seq:
    """What runs the programs of an encoder-decoder.

    Raises:
        ManifestError: the package is none.
    """
    cache, vocab_size = manifest.kv_cache, manifest.vocab_size
    if manifest.grows:
        return GrowingSeq2Seq(encoder, programs[FIRST], programs[DECODER], cache, vocab_size, limit)
    return Seq2Seq(encoder, programs[DECODER], cache, vocab_size, limit)
