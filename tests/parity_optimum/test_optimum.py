"""Architectures without a definition, exported by the real Optimum and run by edgelm, against transformers: same tokens, same values.

A type that edgelm defines some day can stay here: it is taken out of the registry first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

import edgelm
from edgelm.errors import MissingWeights, UnsupportedArchitecture, VerificationError
from edgelm.package import Package
from edgelm_export import optimum
from edgelm_export.architectures import REGISTRY
from tests.architectures.random_checkpoints import tiny_tokenizer

TOLERANCE = 1e-4  # of the largest value
VOCAB = 128
TEXTS = ("the rain in the south", "no", "what a day it was, and then another one")
PROMPTS = ([5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17, 18])
NEW_TOKENS = 16

SMALL = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SEQ2SEQ = {
    "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
    "attention_type": "original_full", "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip

# Rotary positions with grouped-query attention, partial rotary ones, and learned ones with one key-value head.
DECODERS: dict[str, dict[str, Any]] = {
    "arcee": {**SMALL, "num_key_value_heads": 2},
    "glm": {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
    "gpt_bigcode": {
        "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "eos_token_id": 2,
    },
}  # fmt: skip
LONGT5 = {
    "vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "local_radius": 7,
    "decoder_start_token_id": 0,
}  # fmt: skip

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "RoFormerModel": ("roformer", SMALL),
    "MobileBertForQuestionAnswering": (
        "mobilebert", {**SMALL, "embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
    ),
    "SqueezeBertForSequenceClassification": ("squeezebert", {**SMALL, "embedding_size": 32, "num_labels": 3}),
    "RemBertForTokenClassification": (
        "rembert", {**SMALL, "input_embedding_size": 16, "output_embedding_size": 16, "num_labels": 3},
    ),
    "ConvBertForMaskedLM": ("convbert", {**SMALL, "embedding_size": 32}),
}  # fmt: skip

Make = Callable[..., tuple[Any, Path]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the random model of a class, and its checkpoint; the type has no definition from then on."""

    def made(class_name: str, model_type: str, **config: Any) -> tuple[Any, Path]:
        monkeypatch.delitem(REGISTRY, model_type, raising=False)
        torch.manual_seed(1)
        # Larger than usual, so that attention is far from uniform and every part of a model matters.
        settings = transformers.AutoConfig.for_model(model_type, **config, initializer_range=0.2)
        model = getattr(transformers, class_name)(settings).eval()
        model.save_pretrained(tmp_path / "checkpoint")
        (tmp_path / "checkpoint" / "tokenizer.json").write_text(tiny_tokenizer(VOCAB), encoding="utf-8")
        return model, tmp_path / "checkpoint"

    return made


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_decoder_writes_the_tokens_of_transformers(make: Make, model_type: str) -> None:
    name = type(transformers.AutoModelForCausalLM.from_config(_config(model_type, DECODERS[model_type]))).__name__
    reference, checkpoint = make(name, model_type, **DECODERS[model_type])
    package = edgelm.export(checkpoint, checkpoint.parent / "package", precision="fp32", verify=False)
    model = edgelm.load(package.path, threads=1)
    assert (package.manifest.exporter, package.manifest.architecture) == ("optimum", model_type)
    for prompt in PROMPTS:
        assert_close(model.logits(prompt), _run(reference, input_ids=[prompt])["logits"][0])
    expected = [_greedy(lambda ids: _run(reference, input_ids=[ids])["logits"][0, -1], ids) for ids in PROMPTS]
    together = model.generate([list(ids) for ids in PROMPTS], max_new_tokens=NEW_TOKENS, eos_token_id=[])
    alone = [model.generate(list(ids), max_new_tokens=NEW_TOKENS, eos_token_id=[]) for ids in PROMPTS]
    assert [one.token_ids for one in alone] == expected
    assert [one.token_ids for one in together] == expected


def test_beams_find_what_those_of_transformers_find(make: Make) -> None:
    reference, checkpoint = make("GPTBigCodeForCausalLM", "gpt_bigcode", **DECODERS["gpt_bigcode"])
    package = edgelm.export(checkpoint, checkpoint.parent / "package", precision="fp32", verify=False)
    options = {"max_new_tokens": NEW_TOKENS, "num_beams": 3}
    ids = torch.tensor([PROMPTS[0]])
    mask = torch.ones_like(ids)
    expected = reference.generate(ids, attention_mask=mask, pad_token_id=0, do_sample=False, **options)[
        0, ids.shape[1] :
    ].tolist()
    found = edgelm.load(package.path, threads=1).generate(list(PROMPTS[0]), **options).token_ids
    assert found == [token for token in expected if token != 2]


def test_an_encoder_decoder_writes_the_tokens_of_transformers(make: Make) -> None:
    reference, checkpoint = make("BigBirdPegasusForConditionalGeneration", "bigbird_pegasus", **SEQ2SEQ)
    package = edgelm.export(checkpoint, checkpoint.parent / "package", precision="fp32", verify=False)
    model = edgelm.load(package.path, threads=1)
    assert package.manifest.exporter == "optimum"

    def following(source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32]:
        return _run(reference, input_ids=[source], decoder_input_ids=[target])["logits"][0]

    for source in PROMPTS:
        assert_close(model.logits(source, [2, 5, 9]), following(source, [2, 5, 9]))
    expected = [_greedy(lambda ids, source=source: following(source, ids)[-1], [2]) for source in PROMPTS]
    options = {"max_new_tokens": NEW_TOKENS, "eos_token_id": [], "forced_eos_token_id": None}
    together = model.generate([list(ids) for ids in PROMPTS], **options)
    alone = [model.generate(list(ids), **options) for ids in PROMPTS]
    assert [one.token_ids for one in alone] == expected
    assert [one.token_ids for one in together] == expected


@pytest.mark.parametrize("class_name", ENCODERS)
def test_an_encoder_says_what_transformers_says(make: Make, class_name: str) -> None:
    model_type, config = ENCODERS[class_name]
    reference, checkpoint = make(class_name, model_type, **config)
    package = edgelm.export(checkpoint, checkpoint.parent / "package", precision="fp32")
    assert package.manifest.exporter == "optimum"
    assert package.manifest.quality["float_against_original"] < TOLERANCE
    model = edgelm.load(package.path, threads=1)
    ids = [model.tokenizer.encode(text) for text in TEXTS]
    if class_name == "RoFormerModel":
        for found, one in zip(model.hidden_states(list(TEXTS)), ids, strict=True):
            assert_close(found, _run(reference, input_ids=[one])["last_hidden_state"][0])
    if class_name == "SqueezeBertForSequenceClassification":
        for found, one in zip(model.classify(list(TEXTS)), ids, strict=True):
            logits = _run(reference, input_ids=[one])["logits"][0]
            expected = np.exp(logits) / np.exp(logits).sum()
            assert [label.score for label in found] == pytest.approx(sorted(expected, reverse=True), rel=1e-4)


def test_an_embedder_pools_in_the_graph(make: Make) -> None:
    reference, checkpoint = make("RoFormerModel", "roformer", **SMALL)
    package = edgelm.export(checkpoint, checkpoint.parent / "package", task="embedding", precision="fp32", verify=False)
    model = edgelm.load(package.path, threads=1)
    for text, found in zip(TEXTS, model.encode(list(TEXTS)), strict=True):
        states = _run(reference, input_ids=[model.tokenizer.encode(text)])["last_hidden_state"][0]
        assert_close(found, states.mean(0))


def test_weights_of_four_bits_stay_close_and_the_manifest_says_how_close(make: Make) -> None:
    _, checkpoint = make("ArceeForCausalLM", "arcee", **DECODERS["arcee"])
    package = edgelm.export(checkpoint, checkpoint.parent / "package")
    quality = Package.open(package.path).manifest.quality
    assert package.manifest.precision == "int4"
    assert quality["float_against_original"] < TOLERANCE
    assert quality["steps_against_prefill"] < 1e-3
    assert 0 < quality["prefill"]["mean_kld"] < 0.1


def test_a_trace_that_holds_for_some_lengths_only_is_no_package(make: Make) -> None:
    _, checkpoint = make("LongT5ForConditionalGeneration", "longt5", **LONGT5)
    with pytest.raises(VerificationError, match="Optimum's graph of longt5 does not run on the evaluation text"):
        edgelm.export(checkpoint, checkpoint.parent / "package", precision="fp32")
    assert not (checkpoint.parent / "package").exists()


def test_a_checkpoint_without_the_head_of_its_task_is_refused(make: Make) -> None:
    model, checkpoint = make("RoFormerModel", "roformer", **SMALL)
    config = json.loads((checkpoint / "config.json").read_text()) | {"architectures": ["RoFormerForMaskedLM"]}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingWeights, match=r"is not a whole checkpoint for fill-mask: missing .*cls\.predictions"):
        edgelm.export(checkpoint, checkpoint.parent / "package")
    assert model is not None


def test_code_that_comes_with_a_checkpoint_is_not_run(make: Make) -> None:
    _, checkpoint = make("RoFormerModel", "roformer", **SMALL)
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {
        "model_type": "internlm2",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    config["architectures"] = ["InternLM2ForCausalLM"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "code.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(UnsupportedArchitecture, match=r"Optimum cannot load it .*code"):
        edgelm.export(checkpoint, checkpoint.parent / "package")


def test_optimum_says_what_it_serves() -> None:
    assert optimum.is_installed()
    assert "text-generation" in optimum.served_tasks("arcee")
    assert optimum.served_tasks("no-such-type") == ()


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def _config(model_type: str, values: dict[str, Any]) -> Any:
    return transformers.AutoConfig.for_model(model_type, **values)


def _run(model: Any, **ids: Sequence[Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """What the reference says to whole sequences, without a cache."""
    with torch.inference_mode():
        said = model(**{name: torch.tensor(value) for name, value in ids.items()})
    return {name: one.numpy() for name, one in said.items() if isinstance(one, torch.Tensor)}


def _greedy(following: Callable[[list[int]], NDArray[np.float32]], prompt: Sequence[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(NEW_TOKENS):
        ids.append(int(following(ids).argmax()))
    return ids[len(prompt) :]
