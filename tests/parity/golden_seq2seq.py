"""Records the goldens of encoder-decoders: a case in, a folder with its weights and with what transformers says, out."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LogitsProcessor, LogitsProcessorList

from tests.architectures.encoding import Batch, ragged_batch
from tests.architectures.running import Logits
from tests.architectures.seq2seq_configs import target_vocabulary
from tests.architectures.seq2seq_goldens import EXPECTED, filled
from tests.architectures.seq2seq_running import Targets
from tests.golden.seq2seq_cases import Seq2SeqGolden
from tests.parity.encoder_reference import saved_tensors
from tests.parity.reference import load_reference
from tests.parity.seq2seq_reference import (
    Found,
    drawn,
    encoder_answer,
    forced_answer,
    random_seq2seq,
    searched,
)

LENGTHS, TARGET_TOKENS, FIRST_ID = (5, 16, 9), 10, 5
BEAMS, SEEDS = 4, 300
DTYPE = torch.float16

# What a recording must offer, so that "the same tokens" is no coin toss: noise of this size on all log probabilities
# changes no sequence and no rank. And the sequences vary.
NOISE, NOISES, DISTINCT = 2e-3, 3, 10

# A change to any one tensor or setting moves the logits by at least this share of the largest, a hundred times the
# tolerance: no part of a golden can be read wrongly and go unseen.
SENSITIVITY = 1e-2

# A bias of keys moves all scores of a query alike, which softmax does not see.
UNSEEN = ("*k_proj.bias",)
# Tables that are there beside those that are read, where a checkpoint ties nothing.
UNREAD = ("shared.weight",)


@dataclass(frozen=True)
class Searches:
    """What each source's search finds: one greedy sequence, and the best of the beams."""

    greedy: list[list[Found]]
    beams: list[list[Found]]

    @property
    def tokens(self) -> list[list[int]]:
        """Of all sequences."""
        return [one.tokens for found in (self.greedy, self.beams) for group in found for one in group]


def record_seq2seq(case: Seq2SeqGolden, folder: Path) -> None:
    """Writes the first random checkpoint of a case that is clear-cut and sensitive, with transformers' answers."""
    blind: list[str] = []
    for seed in range(SEEDS):
        model = _written(case, folder, seed)
        batch, targets = _inputs(case, seed)
        found = _searches(model, batch)
        if not (_is_worth_recording(found) and _is_clear(model, batch, found)):
            continue
        logits = forced_answer(model, batch, targets)
        blind = _blind(case, seed, batch, targets, logits)
        if not blind:
            break
    else:
        unseen = f"; the last clear one hardly depends on {', '.join(blind)}" if blind else ""
        raise click.ClickException(f"{case.name}: no seed is clear-cut and sensitive{unseen}; change the weights")
    np.savez(
        folder / EXPECTED,
        input_ids=batch.ids,
        attention_mask=batch.mask,
        encoder_hidden_states=encoder_answer(model, batch),
        targets=targets,
        logits=logits,
        greedy_tokens=filled([one.tokens for (one,) in found.greedy]),
        beam_tokens=filled([one.tokens for group in found.beams for one in group]).reshape(len(LENGTHS), BEAMS, -1),
        beam_scores=np.array([[one.score for one in group] for group in found.beams], np.float32),
    )


def _written(case: Seq2SeqGolden, folder: Path, seed: int) -> Any:
    """The checkpoint in its folder, as transformers loads it from there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, values in (("config.json", case.config), ("generation_config.json", case.generation)):
        if values is not None:
            (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        tensors = saved_tensors(random_seq2seq(case.config, seed, DTYPE), Path(scratch))
    stored = {name: tensor.to(DTYPE) for name, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return load_reference(folder)


def _inputs(case: Seq2SeqGolden, seed: int) -> tuple[Batch, Targets]:
    config = case.config
    pad = config["pad_token_id"]
    last = min(config["vocab_size"], pad) if pad > FIRST_ID else config["vocab_size"]
    batch = ragged_batch(LENGTHS, ids=(FIRST_ID, last), types=0, pad_token_id=pad, seed=seed)
    shape = (len(LENGTHS), TARGET_TOKENS)
    targets = np.random.default_rng(seed).integers(FIRST_ID, target_vocabulary(config), shape)
    targets[:, 0] = config["decoder_start_token_id"]
    return batch, targets


def _searches(model: Any, batch: Batch, noise: Sequence[LogitsProcessor] = ()) -> Searches:
    given = {"logits_processor": LogitsProcessorList(noise)}
    greedy = searched(model, batch, num_beams=1, early_stopping=None, length_penalty=None, **given)
    return Searches(greedy, searched(model, batch, num_beams=BEAMS, num_return_sequences=BEAMS, **given))


def _is_worth_recording(found: Searches) -> bool:
    """Different tokens, sequences of different lengths, beams that find something else than a greedy search."""
    lengths = {len(one.tokens) for group in found.beams for one in group}
    better = [best.tokens != one.tokens for (one,), (best, *_) in zip(found.greedy, found.beams, strict=True)]
    return len(set(chain(*found.tokens))) >= DISTINCT and len(lengths) > 1 and any(better)


def _is_clear(model: Any, batch: Batch, found: Searches) -> bool:
    """The sequences are the same under noise, and for each source alone."""
    noisy = (_searches(model, batch, [_Noise(seed)]) for seed in range(NOISES))
    if any(one.tokens != found.tokens for one in noisy):
        return False
    alone = [_searches(model, batch.row(i)) for i in range(len(batch.ids))]
    together = Searches(
        [group for one in alone for group in one.greedy], [group for one in alone for group in one.beams]
    )
    return together.tokens == found.tokens


class _Noise(LogitsProcessor):
    """Adds uniform noise to what is searched by."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        drawn = torch.rand(scores.shape, generator=self._generator)
        return scores + NOISE * (2 * drawn - 1)


def _blind(case: Seq2SeqGolden, seed: int, batch: Batch, targets: Targets, expected: Logits) -> list[str]:
    """Tensors and listed settings that may change, one at a time, and the logits hardly tell."""
    variants = chain(_damaged(case, seed), _changed(case, seed))  # one after the other, for the first is the same model
    return [name for name, model in variants if _moved(forced_answer(model, batch, targets), expected) < SENSITIVITY]


def _damaged(case: Seq2SeqGolden, seed: int) -> Iterator[tuple[str, Any]]:
    unseen = UNSEEN if case.config.get("tie_word_embeddings", True) else (*UNSEEN, *UNREAD)
    model = random_seq2seq(case.config, seed, DTYPE)
    for key, values in drawn(model):
        if any(fnmatchcase(key, pattern) for pattern in unseen):
            continue
        before = values.detach().clone()
        with torch.no_grad():
            values.fill_(1.0 if "norm" in key and key.endswith("weight") else 0.0)
            yield key, model
            values.copy_(before)


def _changed(case: Seq2SeqGolden, seed: int) -> Iterator[tuple[str, Any]]:
    for setting, change in case.sensitive.items():
        yield setting, random_seq2seq(replace(case, config={**case.config, **change}).config, seed, DTYPE)


def _moved(found: Logits, expected: Logits) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
