"""Recorded encoder-decoders: a case in; its checkpoint as the hub would hold it, and what transformers said about it, out.

A case's folder holds config.json, model.safetensors, mostly generation_config.json, and expected.npz.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.architectures.encoding import Array, Batch
from tests.architectures.random_checkpoints import write_config
from tests.architectures.random_configs import Config
from tests.architectures.running import Logits
from tests.architectures.seq2seq_running import Targets

GOLDENS = Path(__file__).parents[1] / "golden"
EXPECTED = "expected.npz"
NOTHING = -1  # fills rows of tokens up


@dataclass(frozen=True)
class Recorded:
    """Ragged sources with given targets, and what transformers made of them.

    Attributes:
        batch: the sources.
        targets: given targets, [sources, tokens].
        states: the encoder's last hidden states, [sources, source, hidden_size].
        logits: after every token of the targets, [sources, tokens, vocab_size].
        greedy: the new tokens of a greedy search for each source, without the end token.
        beams: of each source the four best sequences, best first.
        scores: of those sequences, [sources, 4].
    """

    batch: Batch
    targets: Targets
    states: Array
    logits: Logits
    greedy: list[list[int]]
    beams: list[list[list[int]]]
    scores: NDArray[np.float32]


def golden_config(case: str) -> Config:
    """Its config.json."""
    return json.loads((GOLDENS / case / "config.json").read_text(encoding="utf-8"))


def golden_checkpoint(case: str, folder: Path) -> Path:
    """Writes the checkpoint of a case, with a tokenizer. Returns its folder."""
    shutil.copytree(GOLDENS / case, folder, ignore=shutil.ignore_patterns(EXPECTED))
    write_config(folder, golden_config(case))
    return folder


@cache
def recorded(case: str) -> Recorded:
    """What was recorded of a case."""
    with np.load(GOLDENS / case / EXPECTED, allow_pickle=False) as arrays:
        found = dict(arrays)
    batch = Batch(found["input_ids"], found["attention_mask"], np.zeros_like(found["input_ids"]))
    greedy, beams = (_without_filling(found[name]) for name in ("greedy_tokens", "beam_tokens"))
    targets, states, logits = (found[name] for name in ("targets", "encoder_hidden_states", "logits"))
    return Recorded(batch, targets, states, logits, greedy, beams, found["beam_scores"])


def filled(tokens: list[list[int]]) -> NDArray[np.int64]:
    """Rows of different lengths as one array."""
    longest = max(map(len, tokens))
    return np.array([row + [NOTHING] * (longest - len(row)) for row in tokens], np.int64)


def _without_filling(tokens: NDArray[np.int64]) -> Any:
    if tokens.ndim > 1:
        return [_without_filling(row) for row in tokens]
    return tokens[tokens != NOTHING].tolist()
