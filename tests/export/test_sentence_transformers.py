"""Folders in the layout of sentence-transformers 2 to 6: what the modules say is read, what edgelm lacks is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.errors import CheckpointError, CorruptFile, UnsupportedConfig
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.checkpoint.sentence_transformers import SentenceModules, find_modules
from tests.export.builders import write_hub_folder, write_safetensors

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.",
    "Dense": "sentence_transformers.base.modules.dense.",
    "Normalize": "sentence_transformers.base.modules.normalize.",
}
# As releases 2 to 5 write it: one key a mode.
FLAGS = {
    "word_embedding_dimension": 8,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": False,
    "include_prompt": True,
}
DENSE = {
    "in_features": 8,
    "out_features": 4,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}
LINEAR = {"linear.weight": np.ones((4, 8), np.float32), "linear.bias": np.zeros(4, np.float32)}


class Folder:
    """A folder in hub layout and what sentence-transformers would put beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Any] = []
        write_hub_folder(path, {"model_type": "bert"}, {"x": np.zeros((1, 1), np.float32)})

    def json(self, name: str, content: Any) -> Folder:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
        return self

    def module(self, kind: str, config: Any = None, place: str | None = None) -> Folder:
        """Adds a module; a class name alone stands for that of releases 2 to 5."""
        name = kind.rsplit(".", 1)[-1]
        number = len(self.entries)
        folder = ("" if number == 0 else f"{number}_{name}") if place is None else place
        self.entries.append(
            {"idx": number, "name": str(number), "path": folder, "type": kind if "." in kind else OLD + kind}
        )
        if config is not None:
            self.json(f"{folder}/config.json", config)
        return self.json("modules.json", self.entries)

    def dense(self, **changes: Any) -> Folder:
        self.module("Dense", DENSE | changes)
        write_safetensors(self.path / self.entries[-1]["path"] / "model.safetensors", LINEAR)
        return self

    def read(self) -> SentenceModules:
        found = find_modules(self.path)
        assert found is not None
        return found.read()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "model")


@pytest.fixture
def pooled(folder: Folder) -> Folder:
    return folder.module("Transformer").module("Pooling", FLAGS)


def test_a_folder_without_modules_has_none(folder: Folder) -> None:
    assert find_modules(folder.path) is None
    assert open_checkpoint(folder.path).modules is None


def test_modules_of_the_older_layout_are_read_in_order(pooled: Folder) -> None:
    found = pooled.dense().module("Normalize").read()
    assert (found.pooling, found.normalized) == (("mean",), True)
    layer = found.dense[0]
    assert (layer.folder, layer.out_features, layer.bias, layer.activation) == ("2_Dense", 4, True, "tanh")
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        "2_Dense.linear.weight": (4, 8),
        "2_Dense.linear.bias": (4,),
    }
    assert {tensor.name for tensor in found.tensors.values()} == set(found.tensors)
    files = [file.relative_to(pooled.path).as_posix() for file in found.files]
    assert files == ["modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]


def test_modules_of_the_newer_layout_read_alike(folder: Folder) -> None:
    places = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    folder.module(NEW["Transformer"] + "Transformer")
    folder.module(
        NEW["Pooling"] + "Pooling", {"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True}
    )
    folder.module(NEW["Dense"] + "Dense", DENSE | places)
    write_safetensors(folder.path / "2_Dense" / "model.safetensors", LINEAR)
    found = folder.module(NEW["Normalize"] + "Normalize", places).read()
    assert (found.pooling, found.dense[0].activation, found.normalized) == (("mean",), "tanh", True)
    assert folder.path / "3_Normalize" / "config.json" in found.files


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        (FLAGS, ("mean",)),
        (FLAGS | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, ("cls",)),
        (FLAGS | {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, ("max",)),
        (FLAGS | {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, ("last",)),
        (FLAGS | {"pooling_mode_mean_tokens": False, "pooling_mode_mean_sqrt_len_tokens": True}, ("mean-sqrt-length",)),
        (FLAGS | {"pooling_mode_mean_tokens": False, "pooling_mode_weightedmean_tokens": True}, ("weighted-mean",)),
        # Several stand beside each other in the library's order, which is not that of the keys.
        (FLAGS | {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, ("cls", "max", "mean")),
        (FLAGS | {"pooling_mode_mean_tokens": False}, ("mean",)),
        ({"word_embedding_dimension": 8}, ("mean",)),
        ({"pooling_mode": "lasttoken"}, ("last",)),
        (
            {"pooling_mode": ["weightedmean", "cls", "mean_sqrt_len_tokens"]},
            ("weighted-mean", "cls", "mean-sqrt-length"),
        ),
        (FLAGS | {"pooling_mode": "max"}, ("max",)),
    ],
)
def test_every_spelling_of_a_pooling_is_read(folder: Folder, config: dict[str, Any], modes: tuple[str, ...]) -> None:
    assert folder.module("Transformer").module("Pooling", config).read().pooling == modes


@pytest.mark.parametrize(("config", "named"), [("median", "'median'"), (["mean", 3], "'3'"), ([], "of no kind")])
def test_an_unknown_pooling_is_refused_by_name(folder: Folder, config: Any, named: str) -> None:
    folder.module("Transformer").module("Pooling", {"pooling_mode": config})
    with pytest.raises(
        UnsupportedConfig, match=f"1_Pooling/config.json: pooling {named} is not supported .known: cls, max"
    ):
        folder.read()


def test_pooling_without_the_prompt_is_refused(folder: Folder) -> None:
    folder.module("Transformer").module("Pooling", FLAGS | {"include_prompt": False})
    with pytest.raises(
        UnsupportedConfig, match="include_prompt false is not supported; the prompt's tokens are always"
    ):
        folder.read()


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        ("torch.nn.modules.activation.Tanh", "tanh"),
        ("torch.nn.modules.linear.Identity", "linear"),
        ("torch.nn.modules.activation.GELU", "gelu"),
        ("torch.nn.ReLU", "relu"),
        ("torch.nn.modules.activation.SiLU", "silu"),
        ("torch.nn.modules.activation.Sigmoid", "sigmoid"),
    ],
)
def test_activations_of_torch_are_read(pooled: Folder, activation: str, name: str) -> None:
    assert pooled.dense(activation_function=activation).read().dense[0].activation == name


@pytest.mark.parametrize("activation", ["torch.nn.modules.activation.Mish", "custom.Tanh", None, "Tanh"])
def test_other_activations_are_refused(pooled: Folder, activation: str | None) -> None:
    pooled.dense(activation_function=activation)
    with pytest.raises(
        UnsupportedConfig, match=r"2_Dense/config.json: activation '.*' is not supported .known: torch's"
    ):
        pooled.read()


def test_several_dense_layers_keep_their_order(pooled: Folder) -> None:
    found = pooled.dense(out_features=16).dense(bias=False).module("Normalize").read()
    assert [(layer.folder, layer.out_features, layer.bias) for layer in found.dense] == [
        ("2_Dense", 16, True),
        ("3_Dense", 4, False),
    ]


def test_dropout_acts_in_training_only(pooled: Folder) -> None:
    assert pooled.module("Dropout", {"dropout": 0.2}).module("Normalize").read().normalized


def test_a_dense_layer_that_was_pickled_says_how_to_save_it_again(pooled: Folder) -> None:
    pooled.module("Dense", DENSE)
    (pooled.path / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(
        CheckpointError, match=r"2_Dense/model.safetensors: is missing; edgelm reads no pickles, so save"
    ):
        pooled.read()


@pytest.mark.parametrize(
    "changes", [{"out_features": 0}, {"out_features": "4"}, {"out_features": 1 << 20}, {"bias": 1}]
)
def test_a_dense_layer_of_no_size_is_corrupt(pooled: Folder, changes: dict[str, Any]) -> None:
    pooled.dense(**changes)
    with pytest.raises(
        CorruptFile, match="2_Dense/config.json: out_features is no size, or bias neither true nor false"
    ):
        pooled.read()


def test_a_residual_dense_layer_is_refused(pooled: Folder) -> None:
    pooled.dense(use_residual=True)
    with pytest.raises(UnsupportedConfig, match="2_Dense/config.json: use_residual is not supported; leave it out"):
        pooled.read()


@pytest.mark.parametrize("key", ["module_input_name", "module_output_name"])
@pytest.mark.parametrize("kind", ["Dense", "Normalize"])
def test_modules_on_token_vectors_are_refused(pooled: Folder, kind: str, key: str) -> None:
    config = {key: "token_embeddings"}
    pooled.dense(**config) if kind == "Dense" else pooled.module(kind, config)
    with pytest.raises(UnsupportedConfig, match=f"2_{kind}/config.json: {key} 'token_embeddings' is not supported"):
        pooled.read()


@pytest.mark.parametrize(
    "kinds",
    [
        ["Transformer", "Pooling", "Pooling"],
        ["Transformer", "Pooling", "Transformer"],
        ["Transformer", "Dense", "Pooling"],
        ["Transformer", "Normalize", "Pooling"],
        ["Transformer", "Pooling", "Normalize", "Dense"],
        ["Transformer", "Pooling", "LayerNorm"],
        ["Transformer", "CNN", "Pooling"],
        ["StaticEmbedding", "Pooling"],
        ["WordEmbeddings", "Pooling"],
        ["sentence_transformers.sparse_encoder.models.SparseAutoEncoder", "Pooling"],
    ],
)
def test_modules_that_edgelm_lacks_and_other_orders_are_refused(folder: Folder, kinds: list[str]) -> None:
    for kind in kinds:
        folder.module(kind, FLAGS if kind == "Pooling" else {})
    with pytest.raises(
        UnsupportedConfig, match=r"modules.json: module '.*' in '.*' is not supported in this place .known: Tr"
    ):
        folder.read()


def test_a_transformer_in_a_folder_of_its_own_is_refused(folder: Folder) -> None:
    folder.module("Transformer", place="0_Transformer").module("Pooling", FLAGS)
    with pytest.raises(UnsupportedConfig, match="'sentence_transformers.models.Transformer' in '0_Transformer' is not"):
        folder.read()


@pytest.mark.parametrize("kind", ["custom_st.Transformer", "pylate.models.Dense.Dense"])
def test_code_of_others_is_never_run(folder: Folder, kind: str) -> None:
    folder.module(kind).module("Pooling", FLAGS)
    with pytest.raises(
        UnsupportedConfig, match=f"module '{kind}' is code of another package or of the checkpoint itself"
    ):
        folder.read()


def test_what_edgelm_lacks_does_not_stop_other_tasks(folder: Folder) -> None:
    folder.module("Transformer").module("Pooling", FLAGS).module("CNN")
    found = open_checkpoint(folder.path).modules
    assert found is not None
    assert found.embeds


@pytest.mark.parametrize(
    "kinds",
    [
        ["Transformer"],
        ["sentence_transformers.sparse_encoder.models.MLMTransformer", "SpladePooling"],
        [
            "sentence_transformers.base.modules.transformer.Transformer",
            "sentence_transformers.cross_encoder.modules.LogitScore",
        ],
    ],
)
def test_lists_without_pooling_are_of_no_embedder(folder: Folder, kinds: list[str]) -> None:
    for kind in kinds:
        folder.module(kind)
    found = open_checkpoint(folder.path).modules
    assert found is not None
    assert not found.embeds


@pytest.mark.parametrize(
    "entry",
    [
        {"type": OLD + "Pooling", "path": "../1_Pooling"},
        {"type": OLD + "Pooling", "path": ".."},
        {"type": OLD + "Pooling", "path": "."},
        {"type": OLD + "Pooling", "path": "/etc"},
        {"type": OLD + "Pooling", "path": "a/../b"},
        {"type": OLD + "Pooling", "path": "c:secret"},
        {"type": OLD + "Pooling", "path": "..\\1_Pooling"},
        {"type": OLD + "Pooling", "path": "1_Pool\x00ing"},
        {"type": OLD + "Pooling", "path": "1_Pool\ning"},
        {"type": OLD + "Pooling", "path": "x" * 2000},
        {"type": OLD + "Pooling", "path": None},
        {"type": 7, "path": "1_Pooling"},
        {"path": "1_Pooling"},
        "1_Pooling",
        None,
    ],
)
def test_a_list_that_leads_out_of_the_folder_is_corrupt(folder: Folder, entry: Any) -> None:
    folder.json("modules.json", [{"type": OLD + "Transformer", "path": ""}, entry])
    with pytest.raises(CorruptFile, match="modules.json: .* names no module of this folder"):
        open_checkpoint(folder.path)


def test_a_list_that_is_none_is_corrupt(folder: Folder) -> None:
    folder.json("modules.json", {"0": {}})
    with pytest.raises(CorruptFile, match="modules.json: holds a JSON dict where an array was expected"):
        open_checkpoint(folder.path)
    (folder.path / "modules.json").write_bytes(b" " * (1 << 20) + b"[]")
    with pytest.raises(CorruptFile, match="modules.json: has 1,048,578 bytes, more than"):
        open_checkpoint(folder.path)


def test_a_module_whose_config_is_missing_names_the_file(folder: Folder) -> None:
    folder.module("Transformer").module("Pooling")
    with pytest.raises(CheckpointError, match="1_Pooling/config.json: cannot be read"):
        folder.read()


def test_prompts_and_limits_are_read(pooled: Folder) -> None:
    pooled.json("sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": True})
    pooled.json("tokenizer_config.json", {"model_max_length": 512})
    prompts = {"query": "Find: ", "document": None}
    pooled.json(
        "config_sentence_transformers.json",
        {"__version__": {}, "prompts": prompts, "default_prompt_name": "query", "truncate_dim": 4},
    )
    found = pooled.read()
    assert (found.max_seq_length, found.lowercase, found.truncate_dim) == (256, True, 4)
    assert (found.prompts, found.default_prompt) == ({"query": "Find: ", "document": ""}, "query")
    assert {"sentence_bert_config.json", "config_sentence_transformers.json"} <= {file.name for file in found.files}


def test_nothing_said_is_nothing_assumed(pooled: Folder) -> None:
    pooled.json("config_sentence_transformers.json", {"prompts": None, "default_prompt_name": None})
    found = pooled.read()
    assert (found.max_seq_length, found.lowercase, found.truncate_dim) == (None, False, None)
    assert (found.prompts, found.default_prompt) == ({}, None)


@pytest.mark.parametrize(
    ("limit", "expected"), [(128, 128), (int(1e30), int(1e30)), (None, None), ("128", None), (True, None), (0, None)]
)
def test_newer_releases_keep_the_longest_text_with_the_tokenizer(pooled: Folder, limit: Any, expected: Any) -> None:
    pooled.json("sentence_bert_config.json", {"max_seq_length": None, "transformer_task": "feature-extraction"})
    pooled.json("tokenizer_config.json", {"model_max_length": limit})
    assert pooled.read().max_seq_length == expected


def test_settings_of_old_releases_are_named_after_the_kind_of_model(pooled: Folder) -> None:
    pooled.json("sentence_xlm-roberta_config.json", {"max_seq_length": 99})
    assert pooled.read().max_seq_length == 99
    pooled.json("sentence_bert_config.json", {"max_seq_length": 77})
    assert pooled.read().max_seq_length == 77


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prompts": ["a"]}, "its prompts are no texts by name"),
        ({"prompts": {"query": 3}}, "its prompts are no texts by name"),
        ({"prompts": {"query": "q"}, "default_prompt_name": "passage"}, "its default prompt 'passage' is none of its"),
        ({"default_prompt_name": "query"}, "its default prompt 'query' is none of its prompts"),
        ({"prompts": {"query": "q"}, "default_prompt_name": ["query"]}, "its default prompt .* is none of its prompts"),
        ({"truncate_dim": 0}, "truncate_dim '0' is no number of values"),
        ({"truncate_dim": "64"}, "truncate_dim '64' is no number of values"),
    ],
)
def test_settings_that_contradict_themselves_are_corrupt(pooled: Folder, config: Any, message: str) -> None:
    pooled.json("config_sentence_transformers.json", config)
    with pytest.raises(CorruptFile, match=f"config_sentence_transformers.json: {message}"):
        pooled.read()


@pytest.mark.parametrize("longest", [0, -1, "512", 1.5, True])
def test_a_longest_text_of_no_length_is_corrupt(pooled: Folder, longest: Any) -> None:
    pooled.json("sentence_bert_config.json", {"max_seq_length": longest})
    with pytest.raises(
        CorruptFile, match=f"sentence_bert_config.json: max_seq_length '{longest}' is no number of tokens"
    ):
        pooled.read()
