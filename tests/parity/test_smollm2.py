"""Real weights: SmolLM2-135M-Instruct from its GGUF file, dequantized to float32 by transformers and by edgelm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from edgelm.logits import log_softmax
from edgelm.text_generation import DecoderModel
from edgelm_export.evaluation import built_in_text
from tests.architectures.running import FLOAT_TOLERANCE, GREEDY, distance, export_and_load
from tests.downloads import SMOLLM2
from tests.parity.reference import load_reference, reference_logits
from tests.parity.weights import available

pytestmark = pytest.mark.weights

PARAMETERS = 134_515_008
TEXT_TOKENS, NEW_TOKENS = 512, 64
KEPT_KLD = 0.005  # all of it from rounding activations: 0.0035 measured, 0.0000 without
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at 100 degrees Celsius because",
    "<|im_start|>user\nName three planets.<|im_end|>\n<|im_start|>assistant\n",
]


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    (file,) = available(SMOLLM2.fetch).iterdir()
    return file


@pytest.fixture(scope="module")
def reference(gguf_file: Path) -> Any:
    return load_reference(gguf_file.parent, gguf_file=gguf_file.name)


@pytest.fixture(scope="module")
def model(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> DecoderModel:
    return export_and_load(gguf_file, tmp_path_factory.mktemp("smollm2") / "package")


def test_the_reference_has_every_weight_in_float32(reference: Any) -> None:
    assert {str(tensor.dtype) for tensor in reference.parameters()} == {"torch.float32"}
    assert sum(tensor.numel() for tensor in reference.parameters()) == PARAMETERS


def test_logits_of_a_text_are_equal(reference: Any, model: DecoderModel) -> None:
    ids = model.tokenizer.encode(built_in_text().text)[:TEXT_TOKENS]
    assert len(ids) == TEXT_TOKENS
    assert distance(model.logits(ids), reference_logits(reference, ids)) < FLOAT_TOLERANCE


@pytest.mark.parametrize("precision", ["keep", "keep-fast"])
def test_the_integers_of_the_file_are_kept(
    precision: str, gguf_file: Path, model: DecoderModel, tmp_path: Path
) -> None:
    ids = model.tokenizer.encode(built_in_text().text)[:TEXT_TOKENS]
    kept = export_and_load(gguf_file, tmp_path / "kept", precision)
    expected, found = (np.stack([*map(log_softmax, one.logits(ids))]) for one in (model, kept))
    assert (np.exp(expected) * (expected - found)).sum(-1).mean() < KEPT_KLD


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_are_equal(prompt: str, reference: Any, model: DecoderModel) -> None:
    """Token by token the reference's own choice after the same prefix, hence the sequence it would generate."""
    ids = model.tokenizer.encode(prompt)
    tokens = model.generate(ids, max_new_tokens=NEW_TOKENS, eos_token_id=(), **GREEDY).token_ids
    assert len(tokens) == NEW_TOKENS
    assert _reference_choices(reference, ids, tokens) == tokens


def test_the_rebuilt_tokenizer_gives_the_same_ids(gguf_file: Path, model: DecoderModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, local_files_only=True)
    for text in [*PROMPTS, built_in_text().text[:5000], "naïve café 東京 😀  two  spaces\t1234567"]:
        assert model.tokenizer.encode(text, add_special_tokens=False) == tokenizer.encode(
            text, add_special_tokens=False
        )


def _reference_choices(reference: Any, prompt: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """The most likely token before each of `tokens`, from one teacher-forced pass."""
    logits = reference_logits(reference, [*prompt, *tokens[:-1]])
    return np.argmax(logits[len(prompt) - 1 :], axis=-1).tolist()
