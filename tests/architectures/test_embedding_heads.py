"""What a package makes of token vectors, against the same in NumPy on the token vectors that the package puts out itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgelm.errors import UnsupportedConfig, WrongShape
from edgelm_export.blocks.pooling import POOLINGS
from tests.architectures.encoding import Batch, export_encoder, graph, outputs, ragged_batch
from tests.architectures.running import FLOAT_TOLERANCE, distance

Array = NDArray[Any]

SIZE, PAD = 64, 0
BATCH = ragged_batch((7, 1, 12, 3), ids=(3, 128), types=1, pad_token_id=PAD)
TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
FLAGS = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "last": "lasttoken"}

NUMPY = {
    "cls": lambda x: x[0],
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.max(0),
    "last": lambda x: x[-1],
    "mean-sqrt-length": lambda x: x.sum(0) / np.sqrt(len(x)),
    "weighted-mean": lambda x: np.average(x, axis=0, weights=np.arange(1, len(x) + 1)),
}


def pooled(found: Mapping[str, Array], names: Sequence[str], batch: Batch = BATCH) -> Array:
    """Each text's token vectors, pooled in every way that is named."""
    texts = [
        row[:length].astype(np.float64) for row, length in zip(found["last_hidden_state"], batch.lengths, strict=True)
    ]
    return np.stack([np.concatenate([NUMPY[name](text) for name in names]) for text in texts])


def with_length_1(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def with_modules(checkpoint: Path, folder: Path, *modules: tuple[str, Mapping[str, Any], Mapping[str, Array]]) -> Path:
    """A copy of the checkpoint with modules of sentence-transformers: class, config, tensors."""
    shutil.copytree(checkpoint, folder)
    entries = [TRANSFORMER]
    for number, (kind, config, tensors) in enumerate(modules, 1):
        place = folder / f"{number}_{kind}"
        place.mkdir()
        entries.append({"type": f"sentence_transformers.models.{kind}", "path": place.name})
        (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if tensors:
            save_file(dict(tensors), place / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def dense(
    inputs: int, size: int, activation: str, *, bias: bool = True
) -> tuple[str, dict[str, Any], dict[str, Array]]:
    rng = np.random.default_rng(inputs + size)
    tensors = {"linear.weight": rng.normal(0, 0.2, (size, inputs)), "linear.bias": rng.normal(0, 0.2, size)}
    if not bias:
        del tensors["linear.bias"]
    config = {
        "in_features": inputs,
        "out_features": size,
        "bias": bias,
        "activation_function": f"torch.nn.{activation}",
    }
    return "Dense", config, {name: values.astype(np.float32) for name, values in tensors.items()}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_reads_the_tokens_and_no_padding(pooling: str, checkpoint: Path, tmp_path: Path) -> None:
    package = export_encoder(checkpoint, tmp_path / "package", task="embedding", pooling=pooling)
    facts = package.manifest.encoder_facts
    assert (facts.pooling, facts.dimensions, facts.normalized) == ((pooling,), SIZE, False)
    session = graph(package)
    found = outputs(session, BATCH)
    assert distance(found["sentence_embedding"], pooled(found, [pooling])) < FLOAT_TOLERANCE
    for i in range(len(BATCH.ids)):
        alone = outputs(session, BATCH.row(i))["sentence_embedding"]
        assert distance(alone, found["sentence_embedding"][i : i + 1]) < FLOAT_TOLERANCE


def test_several_poolings_dense_layers_and_normalization_follow_each_other(checkpoint: Path, tmp_path: Path) -> None:
    first, second = dense(3 * SIZE, 24, "Tanh"), dense(24, 10, "Identity", bias=False)
    modes = {f"pooling_mode_{FLAGS[name]}": True for name in ("cls", "max", "mean")}
    folder = with_modules(checkpoint, tmp_path / "model", ("Pooling", modes, {}), first, second, ("Normalize", {}, {}))
    package = export_encoder(folder, tmp_path / "package")
    assert package.manifest.task == "embedding"
    facts = package.manifest.encoder_facts
    assert (facts.pooling, facts.dimensions, facts.normalized) == (("cls", "max", "mean"), 10, True)
    found = outputs(graph(package), BATCH)
    h = pooled(found, ["cls", "max", "mean"]) @ first[2]["linear.weight"].T + first[2]["linear.bias"]
    expected = with_length_1(np.tanh(h) @ second[2]["linear.weight"].T)
    assert distance(found["sentence_embedding"], expected) < FLOAT_TOLERANCE


def test_an_embedding_is_cut_where_the_checkpoint_says_so(checkpoint: Path, tmp_path: Path) -> None:
    folder = with_modules(
        checkpoint, tmp_path / "model", ("Pooling", {"pooling_mode": "mean"}, {}), ("Normalize", {}, {})
    )
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"truncate_dim": 5}), encoding="utf-8")
    package = export_encoder(folder, tmp_path / "package")
    assert package.manifest.encoder_facts.dimensions == 5
    found = outputs(graph(package), BATCH)
    assert distance(found["sentence_embedding"], with_length_1(pooled(found, ["mean"]))[:, :5]) < FLOAT_TOLERANCE


def test_a_zero_vector_stays_one_when_it_is_normalized(checkpoint: Path, tmp_path: Path) -> None:
    _, config, tensors = dense(SIZE, 4, "ReLU")
    nothing = {name: np.full_like(values, -1.0 if name.endswith("bias") else 0.0) for name, values in tensors.items()}
    modules = [("Pooling", {"pooling_mode": "mean"}, {}), ("Dense", config, nothing), ("Normalize", {}, {})]
    package = export_encoder(with_modules(checkpoint, tmp_path / "model", *modules), tmp_path / "package")
    assert not outputs(graph(package), BATCH)["sentence_embedding"].any()


def test_the_digest_of_every_module_is_in_the_manifest(checkpoint: Path, tmp_path: Path) -> None:
    folder = with_modules(checkpoint, tmp_path / "model", ("Pooling", {}, {}), dense(SIZE, 4, "Tanh"))
    files = export_encoder(folder, tmp_path / "package").manifest.source["files"]
    assert {"config.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"} <= set(files)
    assert len(set(files.values())) == len(files)


def test_modules_do_not_disturb_another_task(checkpoint: Path, tmp_path: Path) -> None:
    folder = with_modules(checkpoint, tmp_path / "model", ("Pooling", {}, {}), dense(SIZE, 4, "Tanh"))
    package = export_encoder(folder, tmp_path / "package", task="hidden-states")
    assert list(outputs(graph(package), BATCH)) == ["last_hidden_state"]
    assert not any("/" in name for name in package.manifest.source["files"])


def test_a_dense_layer_of_another_width_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = with_modules(
        checkpoint, tmp_path / "model", ("Pooling", {}, {}), dense(SIZE, 4, "Tanh"), dense(5, 3, "Tanh")
    )
    with pytest.raises(
        WrongShape, match=r"dense_1.weight <- 3_Dense.linear.weight: \[3, 5\] in the file, \[3, 4\] by the config"
    ):
        export_encoder(folder, tmp_path / "package")


def test_texts_are_as_long_as_the_modules_allow_unless_asked_otherwise(checkpoint: Path, tmp_path: Path) -> None:
    folder = with_modules(checkpoint, tmp_path / "model", ("Pooling", {}, {}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}), encoding="utf-8")
    assert export_encoder(folder, tmp_path / "package").manifest.context_length == 16
    assert export_encoder(folder, tmp_path / "longer", context_length=32).manifest.context_length == 32


def classifier_of(checkpoint: Path, folder: Path, labels: int, **changes: Any) -> tuple[Path, Array]:
    """The checkpoint with a sequence classifier in place of its head, and the classifier's weight."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "architectures": ["LlamaForSequenceClassification"],
        "id2label": {str(i): f"l{i}" for i in range(labels)},
    }
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    tensors["score.weight"] = np.random.default_rng(3).normal(size=(labels, SIZE)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder, tensors["score.weight"]


@pytest.mark.parametrize("labels", [1, 3])
def test_a_decoders_classifier_reads_the_last_token(labels: int, checkpoint: Path, tmp_path: Path) -> None:
    folder, weight = classifier_of(checkpoint, tmp_path / "model", labels, pad_token_id=PAD)
    package = export_encoder(folder, tmp_path / "package")
    assert package.manifest.task == ("reranking" if labels == 1 else "sequence-classification")
    found = outputs(graph(package), BATCH)
    assert distance(found["logits"], pooled(found, ["last"]) @ weight.T) < FLOAT_TOLERANCE


def test_a_padding_token_within_a_text_is_not_the_last_one_read(checkpoint: Path, tmp_path: Path) -> None:
    """As transformers does it: what counts is the id, even where the text itself ends with it."""
    ids = np.array([[5, 6, PAD, 7, PAD, PAD], [8, 9, PAD, PAD, PAD, PAD], [PAD] * 6])
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    for pad, places in ((PAD, (3, 1, 0)), (None, (5, 5, 5))):
        folder, weight = classifier_of(checkpoint, tmp_path / f"model-{pad}", 2, pad_token_id=pad)
        found = outputs(graph(export_encoder(folder, tmp_path / f"package-{pad}")), batch)
        last = found["last_hidden_state"][np.arange(3), places]
        assert distance(found["logits"], last @ weight.T) < FLOAT_TOLERANCE


def test_a_model_that_reads_whole_texts_writes_none(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, folder := tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"is_causal": False}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        UnsupportedConfig, match="is_causal is false, so the model reads whole texts and writes none; exp"
    ):
        export_encoder(folder, tmp_path / "package")
    session = graph(export_encoder(folder, tmp_path / "package", task="hidden-states"))
    changed = BATCH.ids.copy()
    changed[2, 11] += 1 if changed[2, 11] < 127 else -1
    before, after = (outputs(session, Batch(ids, BATCH.mask, BATCH.types)) for ids in (BATCH.ids, changed))
    moved = np.abs(before["last_hidden_state"] - after["last_hidden_state"]).max(-1)
    assert (moved[2] > 0).all()
    assert not moved[:2].any()
