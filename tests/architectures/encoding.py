"""What tests of encoders share: checkpoints with a tokenizer that has a mask, ragged batches, and a graph's outputs for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import edgelm
from edgelm import signature
from edgelm.package import Package
from edgelm.providers import PROVIDERS
from edgelm.session import Program
from tests.architectures.random_checkpoints import SPECIAL_TOKENS, tiny_vocabulary
from tests.architectures.random_configs import Config

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Rows of ids and token types, padded on the right: int64 [rows, longest]."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    types: NDArray[np.int64]

    @property
    def lengths(self) -> list[int]:
        return self.mask.sum(-1).tolist()

    def row(self, i: int) -> Batch:
        """Row `i` alone, without padding."""
        return Batch(*(array[i : i + 1, : self.lengths[i]] for array in (self.ids, self.mask, self.types)))


def ragged_batch(
    lengths: Sequence[int], *, ids: tuple[int, int], types: int, pad_token_id: int, seed: int = 0
) -> Batch:
    """Random ids within a range and token types, in rows of those lengths."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    drawn = np.where(mask, rng.integers(*ids, shape), pad_token_id)
    return Batch(drawn, mask, mask * rng.integers(0, max(1, types), shape))


def write_encoder_checkpoint(folder: Path, config: Config, tensors: Mapping[str, Array]) -> Path:
    """A hub folder: config.json, model.safetensors, tokenizer files. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_encoder_tokenizer(folder, config["vocab_size"])
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_encoder_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level tokenizer that puts <s> and </s> around texts; the last id is <mask>."""
    tokens, merges = tiny_vocabulary(vocab_size - 1)
    special = (*SPECIAL_TOKENS, "<mask>")
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*tokens, "<mask>"])}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(list(special))
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    names = dict(zip(("pad_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def export_encoder(source: Path, out: Path, precision: str = "fp32", **options: Any) -> Package:
    """The package of a checkpoint, unverified: tests compare it themselves."""
    return edgelm.export(source, out, precision=precision, verify=False, **options)


def graph(package: Package) -> onnxruntime.InferenceSession:
    """The program itself, for feeds and outputs of a test's own."""
    return Program(package.program("encoder"), PROVIDERS["cpu"], threads=1).session


def outputs(session: onnxruntime.InferenceSession, batch: Batch) -> dict[str, NDArray[np.float32]]:
    """Every output of a graph for a whole batch at once; of a masked model, the logits of all positions."""
    feeds = {
        signature.INPUT_IDS: batch.ids,
        signature.ATTENTION_MASK: batch.mask,
        signature.TOKEN_TYPE_IDS: batch.types,
        signature.LOGITS_INDEX: np.tile(np.arange(batch.ids.shape[1]), (len(batch.ids), 1)),
    }
    wanted = {port.name for port in session.get_inputs()}
    names = [port.name for port in session.get_outputs()]
    found = session.run(names, {name: array for name, array in feeds.items() if name in wanted})
    return {name: np.asarray(values) for name, values in zip(names, found, strict=True)}


def without_padding(values: Array, batch: Batch) -> Array:
    """What stands at real tokens, [tokens, size]; what is not one vector a token comes back as it is."""
    return values[batch.mask.astype(bool)] if values.shape[:2] == batch.mask.shape else values
