"""What an export is for, with everything the checkpoint says about it: labels, pooling, modules, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgelm_export.checkpoint.base import LazyTensor


@dataclass(frozen=True)
class DenseModule:
    """A dense layer that sentence-transformers keeps in a folder of its own; `name` is its canonical name."""

    name: str
    source: str
    out_features: int
    bias: bool
    activation: str


@dataclass(frozen=True)
class Task:
    """A task and its facts; fields that a task does not have are empty.

    `tensors` and `files` are those that belong to this task only.
    """

    name: str
    labels: tuple[str, ...] = ()
    problem_type: str = ""
    pooling: tuple[str, ...] = ()
    dense: tuple[DenseModule, ...] = ()
    normalized: bool = False
    truncate_dim: int | None = None
    lowercase: bool = False
    max_seq_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt: str | None = None
    tensors: Mapping[str, LazyTensor] = field(default_factory=dict[str, LazyTensor])
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
