"""Recorded encoders: a case and a class of transformers in; its checkpoint as the hub would hold it, and its answers, out.

A case's folder holds the tensors that all its classes share (base.safetensors, under the names of the class without a head, with
the prefix of the others as metadata), those of each class alone (<class>.safetensors), and expected.npz.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open

from edgelm.tasks import HIDDEN_STATES
from tests.architectures.encoder_configs import SUFFIXES, encoder_classes, with_class
from tests.architectures.encoding import Array, Batch, write_encoder_checkpoint
from tests.architectures.random_configs import Config

GOLDENS = Path(__file__).parents[1] / "golden"
BASE, PREFIX = "base.safetensors", "base_model_prefix"


def golden_config(case: str) -> Config:
    """What all classes of a case have in their config.json."""
    return json.loads((GOLDENS / case / "config.json").read_text(encoding="utf-8"))


def golden_classes(case: str) -> dict[str, str]:
    """Class of transformers -> task, of those that were recorded."""
    known = encoder_classes(golden_config(case)["model_type"])
    return {name: task for name, task in known.items() if (GOLDENS / case / f"{name}.safetensors").is_file()}


def golden_batch(case: str) -> Batch:
    """The ragged batch that transformers was asked about."""
    return Batch(*(_recorded(case)[name] for name in ("input_ids", "attention_mask", "token_type_ids")))


def golden_positions(case: str) -> Array:
    """Where a masked model was asked for logits, [rows, n]."""
    return _recorded(case)["positions"]


def golden_answers(case: str, class_name: str) -> dict[str, Array]:
    """Every output of a class."""
    prefix = f"{class_name}."
    own = {name.removeprefix(prefix): values for name, values in _recorded(case).items() if name.startswith(prefix)}
    return {"last_hidden_state": _recorded(case)["last_hidden_state"], **own}


def golden_checkpoint(case: str, class_name: str, folder: Path) -> Path:
    """Writes the checkpoint of a class, of which only those with a head have a prefix. Returns its folder."""
    with safe_open(GOLDENS / case / BASE, "np") as file:
        prefix = "" if class_name.endswith(SUFFIXES[HIDDEN_STATES]) else f"{file.metadata()[PREFIX]}."
        tensors = {f"{prefix}{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with safe_open(GOLDENS / case / f"{class_name}.safetensors", "np") as file:
        tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return write_encoder_checkpoint(folder, with_class(golden_config(case), class_name), tensors)


@cache
def _recorded(case: str) -> dict[str, Array]:
    with np.load(GOLDENS / case / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)
