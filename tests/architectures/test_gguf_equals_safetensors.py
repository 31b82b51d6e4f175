"""The same checkpoint as a hub folder and as a .gguf file: the packages must say exactly the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgelm.text_generation import DecoderModel
from edgelm_export.architectures import REGISTRY
from tests.architectures import gguf_gpt, gguf_lineage
from tests.architectures.gguf_checkpoints import FAMILIES, rounded, write_gguf
from tests.architectures.random_checkpoints import random_tensors, write_checkpoint
from tests.architectures.random_configs import Config, base_config, rope_keys
from tests.architectures.running import distance, export_and_load
from tests.architectures.test_gguf_mixtures import CASES as MIXTURES

# Some numbers, such as Llama 3's divisors, are stored as float32 in one format and computed in the other.
STORED_FACTORS_TOLERANCE = 1e-5

PLAIN = rope_keys("default", 10000.0, "rope_theta")
CONFIGS = {
    "llama": base_config("llama", num_key_value_heads=4, **PLAIN),
    "llama-one-kv-head-tied": base_config("llama", num_key_value_heads=1, tie_word_embeddings=True, **PLAIN),
    "llama-wide-heads": base_config("llama", head_dim=64, **PLAIN),
    "llama-biases": base_config("llama", attention_bias=True, mlp_bias=True, **PLAIN),
    "llama-linear": base_config("llama", **rope_keys("linear", 10000.0, "rope_parameters")),
    "mistral": base_config("mistral", head_dim=32, sliding_window=None, **rope_keys("default", 1e6, "rope_theta")),
    "qwen2": base_config("qwen2", **rope_keys("default", 1e6, "rope_theta")),
    "qwen2-tied": base_config("qwen2", tie_word_embeddings=True, **PLAIN),
    "qwen3": base_config("qwen3", head_dim=32, **rope_keys("default", 1e6, "rope_theta")),
    "qwen3-biases": base_config("qwen3", head_dim=16, attention_bias=True, **PLAIN),
    **gguf_gpt.CONFIGS,
    **gguf_lineage.CONFIGS,
}
ROUNDED = {
    "llama-llama3": base_config("llama", **rope_keys("llama3", 5e5, "rope_theta")),
    **gguf_lineage.ROUNDED,
}
TENSOR_TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
TEXT = "The other one is here; not there!\nSo it ends."


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_the_same(name: str, tmp_path: Path) -> None:
    hub, file = _both(CONFIGS[name], tmp_path)
    assert np.array_equal(hub.logits(_ids(hub)), file.logits(_ids(hub)))


@pytest.mark.parametrize("name", ROUNDED)
def test_what_float32_rounds_changes_next_to_nothing(name: str, tmp_path: Path) -> None:
    hub, file = _both(ROUNDED[name], tmp_path)
    assert distance(file.logits(_ids(hub)), hub.logits(_ids(hub))) < STORED_FACTORS_TOLERANCE


def test_every_type_that_is_read_from_gguf_is_tried() -> None:
    read = {name for name, architecture in REGISTRY.items() if "gguf" in architecture.names}
    tried = {config["model_type"] for config in (*CONFIGS.values(), *ROUNDED.values(), *MIXTURES.values())}
    assert tried == set(FAMILIES)
    # Ministral (the first) is stored as Llama, by whose rules a window is none.
    assert read - tried == {"ministral"}


@pytest.mark.parametrize("tensor_type", TENSOR_TYPES)
def test_tensors_of_every_type_are_read_as_their_values(tensor_type: str, tmp_path: Path) -> None:
    config = base_config("llama", intermediate_size=96, **PLAIN)
    hub, file = _both(config, tmp_path, tensor_type)
    assert np.array_equal(hub.logits(_ids(hub)), file.logits(_ids(hub)))


def test_tokenizers_are_the_same(tmp_path: Path) -> None:
    hub, file = _both(CONFIGS["llama"], tmp_path)
    ids = hub.tokenizer.encode(TEXT)
    assert file.tokenizer.encode(TEXT) == ids
    assert file.tokenizer.decode(ids) == hub.tokenizer.decode(ids) == TEXT


def _both(config: Config, folder: Path, tensor_type: str = "F32") -> tuple[DecoderModel, DecoderModel]:
    """The checkpoint through safetensors and through GGUF."""
    tensors = random_tensors(config, seed=3)
    hub = write_checkpoint(folder / "hub", config, rounded(tensors, tensor_type))
    file = write_gguf(folder / "model.gguf", config, tensors, tensor_type)
    return export_and_load(hub, folder / "from-hub"), export_and_load(file, folder / "from-gguf")


def _ids(model: DecoderModel) -> list[int]:
    return np.random.default_rng(4).integers(3, model.package.manifest.vocab_size, 24).tolist()
