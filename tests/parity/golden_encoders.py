"""Records the goldens of encoders: a case in, a folder with its weights, class by class, and with what transformers says, out."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save_file

from edgelm.tasks import FILL_MASK
from tests.architectures.encoder_configs import encoder_classes, with_class
from tests.architectures.encoder_goldens import BASE, PREFIX
from tests.architectures.encoding import Batch, ragged_batch
from tests.architectures.random_configs import Config
from tests.golden.encoder_cases import EncoderGolden
from tests.parity.encoder_reference import (
    Answers,
    answers,
    first_id,
    parameters,
    random_encoder,
    saved_tensors,
    takes_types,
)

LENGTHS, MASKED = (5, 24, 11), 3
SEED, DTYPE = 1, torch.float16

# A change to any one tensor or setting moves an answer by at least this share of its largest value, a hundred times the
# tolerance: no part of a golden can be read wrongly and go unseen.
SENSITIVITY = 1e-2

# A bias of keys moves all scores of a query alike, which softmax does not see.
UNSEEN = ("*key.bias", "*pos_key_proj.bias", "*k_lin.bias", "*attn.k.bias", "*k_proj.bias")
UNTIED_UNSEEN = ("cls.predictions.bias", "lm_head.bias")  # left over where the decoder has a bias of its own


def record_encoder(case: EncoderGolden, folder: Path) -> None:
    """Writes a case: config, tensors, and the answers of each class to one ragged batch."""
    classes = encoder_classes(case.config["model_type"])
    models = {name: random_encoder(with_class(case.config, name), SEED, DTYPE) for name in classes}
    batch = _batch(next(iter(models.values())))
    ends = batch.mask.sum(-1, keepdims=True)
    positions = np.sort(np.random.default_rng(SEED).integers(0, ends, (len(ends), MASKED)))
    recorded = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
    for name, model in models.items():
        found = answers(model, batch)
        _require_sensitive(case, name, model, batch, found)
        hidden = found.pop("last_hidden_state")
        if not np.array_equal(recorded.setdefault("last_hidden_state", hidden), hidden):
            raise click.ClickException(f"{case.name}: the base of {name} is another one")
        if classes[name] == FILL_MASK:
            found["logits"] = np.take_along_axis(found["logits"], positions[..., None], axis=1)
        recorded |= {f"{name}.{output}": values for output, values in found.items()}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(case.config, indent=2) + "\n", encoding="utf-8")
    _write_tensors(folder, models)
    np.savez(folder / "expected.npz", positions=positions, **recorded)


def _batch(model: Any) -> Batch:
    return ragged_batch(
        LENGTHS,
        ids=(first_id(model), model.config.vocab_size),
        types=model.config.type_vocab_size if takes_types(model) else 0,
        pad_token_id=model.config.pad_token_id or 0,
        seed=SEED,
    )


def _write_tensors(folder: Path, models: Mapping[str, Any]) -> None:
    """What all classes have under the same name goes into one file; the rest of each into its own."""
    (prefix,) = {model.base_model_prefix for model in models.values()}
    stored: dict[str, dict[str, torch.Tensor]] = {}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as scratch:
            stored[name] = {key: tensor.to(DTYPE) for key, tensor in saved_tensors(model, Path(scratch)).items()}
    short = {name: {key.removeprefix(f"{prefix}.") for key in tensors} for name, tensors in stored.items()}
    shared = set.intersection(*short.values())
    for name, tensors in stored.items():
        own = {key: tensor for key, tensor in tensors.items() if key.removeprefix(f"{prefix}.") not in shared}
        base = {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items() if key not in own}
        save_file(own, folder / f"{name}.safetensors", metadata={"format": "pt"})
        save_file(base, folder / BASE, metadata={PREFIX: prefix})  # one entry: several come in any order


def _require_sensitive(case: EncoderGolden, name: str, model: Any, batch: Batch, expected: Answers) -> None:
    """Changes every tensor and the listed settings one at a time, and demands that an answer tells."""
    blind = [
        key
        for key, changed in (*_damaged(model, batch), *_changed(case, name, batch))
        if all(_distance(changed[output], values) < SENSITIVITY for output, values in expected.items())
    ]
    if blind:
        raise click.ClickException(f"{case.name}: what {name} says hardly depends on {', '.join(blind)}")


def _damaged(model: Any, batch: Batch) -> Iterator[tuple[str, Answers]]:
    unseen = UNSEEN if model.config.tie_word_embeddings else (*UNSEEN, *UNTIED_UNSEEN)
    for key, parameter in parameters(model).items():
        if any(fnmatchcase(key, pattern) for pattern in unseen):
            continue
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.fill_(1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0)
            yield key, answers(model, batch)
            parameter.copy_(before)


def _changed(case: EncoderGolden, name: str, batch: Batch) -> Iterator[tuple[str, Answers]]:
    for setting, change in {**case.sensitive, **case.heads.get(name, {})}.items():
        config: Config = with_class({**case.config, **change}, name)
        yield setting, answers(random_encoder(config, SEED, DTYPE), batch)


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
