"""What tests of encoder-decoders share: checkpoint folders, packages, and both programs run without the runtime in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from safetensors.numpy import save_file

from edgelm import signature
from edgelm.package import Package
from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm.signature import CacheGeometry
from tests.architectures.encoding import Array, Batch, outputs
from tests.architectures.random_checkpoints import write_config
from tests.architectures.random_configs import Config
from tests.architectures.running import Logits, empty_cache

Targets = NDArray[np.int64]  # [rows, tokens]; the rows of a source are neighbours
ROOM = 3  # positions of the cache that nothing is written to


@dataclass(frozen=True)
class Programs:
    """Both graphs of a package."""

    encoder: InferenceSession
    decoder: InferenceSession
    cache: CacheGeometry


def write_seq2seq_checkpoint(folder: Path, config: Config, tensors: Mapping[str, Array]) -> Path:
    """A hub folder: config.json, model.safetensors, tokenizer files. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def open_programs(package: Package) -> Programs:
    """The graphs of a package, on one thread."""
    encoder, decoder = (
        Program(package.program(name), PROVIDERS["cpu"], threads=1).session for name in ("encoder", "decoder")
    )
    return Programs(encoder, decoder, package.manifest.kv_cache)


def encoder_states(programs: Programs, batch: Batch) -> Array:
    """The encoder's last hidden states, [sources, source, hidden_size]."""
    return outputs(programs.encoder, batch)[signature.ENCODER_HIDDEN_STATES]


def forced_logits(programs: Programs, batch: Batch, targets: Targets, *, chunks: int = 1) -> Logits:
    """Logits after every token of given targets, [rows, tokens, vocab_size].

    Args:
        programs: of one package.
        batch: the sources.
        targets: what the decoder is fed, as many rows to every source.
        chunks: the targets are fed in that many calls, of which more rows than one can only have one or as many as tokens.
    """
    rows, tokens = targets.shape
    feeds = _memory(programs, batch) | empty_cache(programs.cache, rows, tokens + ROOM)
    found: list[Logits] = []
    for columns in np.array_split(np.arange(tokens), chunks):
        end = int(columns[-1]) + 1
        feeds |= {
            signature.INPUT_IDS: targets[:, columns],
            signature.SEQLENS_K: np.full(rows, end - 1, np.int32),
            signature.TOTAL_SEQUENCE_LENGTH: np.array(end, np.int32),
            signature.LOGITS_INDEX: np.tile(np.arange(len(columns)), (rows, 1)),
        }
        logits, cache = _run(programs, feeds)
        found.append(logits)
        feeds |= cache
    return np.concatenate(found, axis=1)


def repeated(batch: Batch, times: int) -> Batch:
    """Every source several times, side by side."""
    return Batch(*(np.repeat(array, times, axis=0) for array in (batch.ids, batch.mask, batch.types)))


def _memory(programs: Programs, batch: Batch) -> dict[str, Array]:
    """What the decoder takes of its sources."""
    found = outputs(programs.encoder, batch)
    states = found.pop(signature.ENCODER_HIDDEN_STATES)
    if states.shape[:2] != batch.mask.shape:
        raise ValueError(f"encoder states have shape {states.shape} for sources of {batch.mask.shape}")
    return {signature.ENCODER_ATTENTION_MASK: batch.mask, **found}


def _run(programs: Programs, feeds: Mapping[str, Any]) -> tuple[Logits, dict[str, Array]]:
    """The logits of a call, and the cache after it as the next call's feeds."""
    names = [port.name for port in programs.decoder.get_outputs()]
    found = dict(zip(names, programs.decoder.run(names, dict(feeds)), strict=True))
    logits = np.asarray(found.pop(signature.LOGITS))
    kept = [(i, kind) for i, layer in enumerate(programs.cache.layers) for kind in layer.buffers]
    return logits, {signature.past(i, kind): np.asarray(found[signature.present(i, kind)]) for i, kind in kept}
