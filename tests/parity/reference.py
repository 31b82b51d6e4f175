"""transformers, major version 4 or 5, as the reference: a checkpoint in, its model, float32 logits and greedy tokens out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM

from tests.architectures.random_configs import older_spelling

Logits = NDArray[np.float32]

# Of the two ways there are to compute attention, the eager one adds Falcon's ALiBi twice.
WRONG_WHEN_EAGER = frozenset({"falcon"})

READS_ROPE_PARAMETERS = Version(transformers.__version__) >= Version("5")

# The grouped kernels that release 5 runs experts on refuse widths that are no multiples of 4.
_EAGER_EXPERTS = {"experts_implementation": "eager"} if READS_ROPE_PARAMETERS else {}


def load_reference(folder: Path, **options: Any) -> Any:
    """The checkpoint as float32, from its own config.json, with every tensor accounted for.

    Raises:
        ValueError: transformers found tensors missing, left over or misshapen, so it would compare something else.
    """
    config = None if READS_ROPE_PARAMETERS or "gguf_file" in options else _older_config(folder)
    with quiet():
        model, report = _class_of(folder, **options).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa" if _model_type(folder) in WRONG_WHEN_EAGER else "eager",
            local_files_only=True,
            output_loading_info=True,
            **_EAGER_EXPERTS,
            **options,
        )
    # An encoder may come with the head of its training, which its class has no place for.
    left_over = () if type(model).__name__.endswith("ForCausalLM") else ("unexpected_keys",)
    problems = {key: value for key, value in report.items() if value and key not in left_over}
    if problems:
        raise ValueError(
            f"{folder} is not a checkpoint that transformers {transformers.__version__} reads whole: {problems}"
        )
    return model.eval()


def reference_logits(model: Any, ids: Sequence[int]) -> Logits:
    """Logits of every position in one pass without a cache, float32 [len(ids), vocab_size]."""
    with torch.inference_mode():
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()


def reference_greedy(model: Any, ids: Sequence[int], count: int) -> tuple[list[int], Logits]:
    """`count` greedy tokens after the prompt, and the logits [count, vocab_size] they were taken from.

    Nothing stops it early. Every step runs the whole sequence anew, so no cache of the reference's own is trusted.
    """
    tokens = list(ids)
    steps: list[Logits] = []
    for _ in range(count):
        steps.append(reference_logits(model, tokens)[-1])
        tokens.append(int(steps[-1].argmax()))
    return tokens[len(ids) :], np.stack(steps)


def _class_of(folder: Path, **options: Any) -> Any:
    """The class that config.json names; of a GGUF file, whatever generates."""
    if "gguf_file" in options:
        return AutoModelForCausalLM
    (name,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    return getattr(transformers, name)


def _model_type(folder: Path) -> Any:
    file = folder / "config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("model_type") if file.is_file() else None


def _older_config(folder: Path) -> Any:
    raw = older_spelling(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    with quiet():
        return AutoConfig.for_model(**raw)


@contextmanager
def quiet() -> Iterator[None]:
    """transformers logs advice and draws progress bars while it loads."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
