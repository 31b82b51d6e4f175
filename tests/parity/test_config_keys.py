"""Keys that configs leave out, repeat or carry without meaning: edgelm must read them as transformers does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import Config, base_config
from tests.architectures.running import FLOAT_TOLERANCE, distance, export_and_load
from tests.parity.reference import READS_ROPE_PARAMETERS, load_reference, reference_logits

PROMPT_TOKENS = 40
ALTERNATING = ["sliding_attention", "full_attention"]
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
PROPORTIONAL = {"rope_type": "proportional", "rope_theta": 5e2, "partial_rotary_factor": 0.6}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + 0.2 * j for j in range(8)],
    "long_factor": [2.0 + 0.5 * j for j in range(8)],
}


def trained_on(length: int) -> Config:
    """The context whose length a scaling goes by."""
    return {"original_max_position_embeddings": length}


CONFIGS = {
    "llama-without-rope-theta": base_config("llama", rope_scaling={"type": "linear", "factor": 2.0}),
    "llama-with-null-scaling": base_config("llama", rope_theta=5e4, rope_scaling=None, num_key_value_heads=None),
    "llama-with-named-default-scaling": base_config("llama", rope_theta=5e4, rope_scaling={"rope_type": "default"}),
    "llama-with-both-names-of-the-type": base_config(
        "llama", rope_theta=5e4, rope_scaling={"type": "llama3", "rope_type": "llama3", **LLAMA3}
    ),
    "llama-ignores-windows": base_config("llama", sliding_window=12),
    "mistral-with-null-head-dim": base_config("mistral", head_dim=None, sliding_window=None),
    "qwen2-with-a-window-not-asked-for": base_config("qwen2", sliding_window=12),
    "qwen2-with-a-window-from-layer-28": base_config("qwen2", sliding_window=12, use_sliding_window=True),
    "qwen2-with-layer-types": base_config(
        "qwen2", sliding_window=12, use_sliding_window=True, layer_types=ALTERNATING, max_window_layers=2
    ),
    "qwen2-with-a-needless-bias-key": base_config("qwen2", attention_bias=False),
    "qwen3-with-a-window-not-asked-for": base_config("qwen3", head_dim=32, sliding_window=12),
}
ONLY_SINCE_5 = {
    "llama-with-theta-outside": base_config("llama", rope_theta=5e4, rope_parameters={"rope_type": "default"}),
    "llama-with-two-thetas": base_config("llama", rope_theta=5e4, rope_parameters={"rope_type": "default", "rope_theta": 2e4}),
    "llama-with-standing-pairs": base_config("llama", rope_parameters=PROPORTIONAL),
    "llama-with-longrope-in-a-long-text": base_config("llama", rope_parameters={**LONGROPE, **trained_on(32)}),
    "llama-with-longrope-in-a-short-text": base_config("llama", rope_parameters={**LONGROPE, **trained_on(48)}),
    "llama-without-any-theta": base_config("llama", rope_parameters={"rope_type": "linear", "factor": 2.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CONFIGS, *(ONLY_SINCE_5 if READS_ROPE_PARAMETERS else [])])
def test_logits_are_equal(name: str, tmp_path: Path) -> None:
    assert _distance({**CONFIGS, **ONLY_SINCE_5}[name], PROMPT_TOKENS, tmp_path) < FLOAT_TOLERANCE


def test_mistral_without_a_window_key_has_the_window_of_its_first_release(tmp_path: Path) -> None:
    config = base_config("mistral", num_hidden_layers=1, max_position_embeddings=8192)
    assert _distance(config, 4096 + PROMPT_TOKENS, tmp_path) < FLOAT_TOLERANCE


def _distance(config: Config, tokens: int, folder: Path) -> float:
    checkpoint = write_checkpoint(folder / "checkpoint", config, random_tensors(config, seed=5))
    ids = np.random.default_rng(6).integers(3, config["vocab_size"], tokens).tolist()
    model = export_and_load(checkpoint, folder / "package")
    return distance(model.logits(ids), reference_logits(load_reference(checkpoint), ids))
