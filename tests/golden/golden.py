"""What a golden of a decoder is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.architectures.random_configs import Config


@dataclass(frozen=True)
class Golden:
    """One case.

    Attributes:
        name: its folder: the model type, then what is special.
        config: config.json as it is written; `torch_dtype` (or `dtype`) is what the tensors are stored in.
        sensitive: named changes to the config that must change the logits.
        generation: generation_config.json, if there is one.
        shards: how many files the tensors are spread over.
        new_tokens: how many are generated.
        unseen: glob of tensors that no logits depend on: softmax ignores what a key's bias adds to all scores of a query.
    """

    name: str
    config: Config
    sensitive: Mapping[str, Config] = field(default_factory=dict[str, Config])
    generation: Config | None = None
    shards: int = 1
    new_tokens: int = 16
    unseen: str = ""
