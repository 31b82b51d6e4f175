"""ALiBi at lengths where its precision shows: Falcon rounds positions past 256 as it was trained, the others do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import Config
from tests.architectures.running import FLOAT_TOLERANCE, distance, export_and_load
from tests.parity.reference import load_reference, reference_logits

TOKENS = 1000
IDS: Config = {"vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, Config] = {
    "falcon": {
        **IDS,
        "architectures": ["FalconForCausalLM"],
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_hidden_layers": 2,
        "max_position_embeddings": 2048,
        "alibi": True,
        "multi_query": False,
    },
    "bloom": {**IDS, "architectures": ["BloomForCausalLM"], "n_embed": 48, "n_head": 3, "n_layer": 2},
    "mpt": {
        **IDS,
        "architectures": ["MptForCausalLM"],
        "d_model": 48,
        "n_heads": 3,
        "n_layers": 2,
        "max_seq_len": 2048,
    },
}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_logits_of_a_long_prompt_are_equal(model_type: str, tmp_path: Path) -> None:
    config = {"model_type": model_type, **CONFIGS[model_type]}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config, seed=1))
    ids = np.random.default_rng(1).integers(3, 128, TOKENS).tolist()
    found = export_and_load(checkpoint, tmp_path / "package").logits(ids)
    assert distance(found, reference_logits(load_reference(checkpoint), ids)) < FLOAT_TOLERANCE
