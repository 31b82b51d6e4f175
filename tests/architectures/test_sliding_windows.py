"""Layers that see a window of positions keep no more of them: bytes at a long context, and searches that exchange rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.cache import capacity
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import base_config, rope_keys
from tests.architectures.running import FLOAT_TOLERANCE, GREEDY, distance, export_and_load
from tests.architectures.test_goldens import GOLDENS, expected

LENGTH, WINDOW = 8192, 512
VALUES = 2 * 1 * 16  # keys and values of one head, a token and layer


def test_local_layers_keep_their_window_of_a_long_context(tmp_path: Path) -> None:
    """Five local layers to a global one, as Gemma 3 has them."""
    config = base_config(
        "qwen3",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=LENGTH,
        attention_bias=False,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=0,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
        **rope_keys("default", 10000.0, "rope_parameters"),
    )
    source = write_checkpoint(tmp_path / "source", config, random_tensors(config, 0))
    model = export_and_load(source, tmp_path / "package")
    decoder: Any = model.decoder(1)
    ids = np.random.default_rng(0).integers(3, config["vocab_size"], LENGTH).tolist()
    decoder.prefill(0, ids[:-4])
    steps = np.stack([decoder.step([token])[0].copy() for token in ids[-4:]])
    assert decoder.cache.lengths == [LENGTH]
    local = decoder.cache.rows(0, 1)[0]["past_key_values.0.key"]
    assert local.shape[2] == capacity(model.package.manifest.kv_cache.layers[0], LENGTH) == WINDOW + 16
    assert decoder.cache.nbytes == 4 * VALUES * (LENGTH + 5 * (WINDOW + 16))  # 1,386,496; all global: 6,291,456
    assert distance(steps, model.logits(ids)[-4:]) < FLOAT_TOLERANCE


@pytest.mark.parametrize("case", ["mistral-sliding-window", "qwen3-local-and-global"])
def test_beams_exchange_their_windows(case: str, tmp_path: Path) -> None:
    model = export_and_load(GOLDENS / case, tmp_path / "package")
    prompt = expected(case)["input_ids"].tolist()
    options = {**GREEDY, "num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 40, "eos_token_id": ()}
    for found in model.generate(prompt, **options):
        logits = model.logits(prompt + found.token_ids[:-1])[len(prompt) - 1 :].astype(np.float64)
        likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        score = likely[np.arange(40), found.token_ids].sum() / 40
        assert found.score == pytest.approx(score, rel=FLOAT_TOLERANCE)
