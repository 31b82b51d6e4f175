"""Small encoders with random weights and a WordPiece tokenizer of real words: a head's class in, checkpoint or model out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import edgelm
from edgelm.text_encoding import EncoderModel

Tensors = dict[str, NDArray[np.float32]]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = (
    "the a and of in to is was who where when what did how lives works lived worked play talk walk sing berlin paris london "
    "rome anna peter maria wolf gang tower river bridge north south old new great capital city company micro soft river "
    "germany france italy train station from with by on at it he she they 19 20 1 2 3 . , ? ! ' - : born"
)
_ENDINGS = "ing ed er s ly gang soft berlin 0 1 2 3 4 5 6 7 8 9 e a t n"
TOKENS = (*SPECIAL, *dict.fromkeys(_WORDS.split()), *(f"##{ending}" for ending in _ENDINGS.split()))
HIDDEN, LAYERS, CONTEXT = 32, 2, 64

SENTENCES = [
    "Anna lives in Berlin.",
    "Wolfgang works at Microsoft, the great company of the North!",
    "",
    "Who talked to Maria when she was walking by the river?",
    "Paris is the capital of France and Rome is the capital of Italy",
    "unknown wörds   here",
]


def tokenizer_json() -> str:
    """tokenizer.json as of an uncased BERT."""
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer.to_str()


TOKENIZER_CONFIG = {
    **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)),
    "model_max_length": CONTEXT,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],  # the default of transformers 4, not of 5
}


def encoder_config(class_name: str = "BertModel", labels: tuple[str, ...] = (), **values: Any) -> dict[str, Any]:
    """The config.json of a two-layer BERT or ELECTRA of that class; `values` replace or add keys."""
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": "electra" if class_name.startswith("Electra") else "bert",
        "vocab_size": len(TOKENS),
        "hidden_size": HIDDEN,
        "intermediate_size": 40,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "max_position_embeddings": CONTEXT,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    if config["model_type"] == "electra":
        config["embedding_size"] = HIDDEN
    if labels:
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
    return {**config, **values}


def encoder_tensors(config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Random weights of such a config under their names on the hub, wide enough that heads decide clearly."""
    rng = np.random.default_rng(seed)
    body = {name: _draw(rng, name, shape, 1.5) for name, shape in _body_shapes(config).items()}
    return body | {name: _draw(rng, name, shape, 3) for name, shape in _head_shapes(config).items()}


def write_encoder(
    folder: Path, config: Mapping[str, Any], seed: int = 0, tokenizer: str | None = None, **tokenizer_config: Any
) -> Path:
    """A hub folder.

    Args:
        tokenizer: another tokenizer.json.
        tokenizer_config: keys of tokenizer_config.json to replace or add; None takes one away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer or tokenizer_json(), encoding="utf-8")
    settings = {key: value for key, value in {**TOKENIZER_CONFIG, **tokenizer_config}.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(encoder_tensors(config, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_modules(folder: Path, **modules: str) -> None:
    """modules.json of sentence-transformers: classes and their folders; a pooling takes the first token."""
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules.items()]
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    if "Pooling" in modules:
        (folder / modules["Pooling"]).mkdir()
        (folder / modules["Pooling"] / "config.json").write_text('{"pooling_mode_cls_token": true}', encoding="utf-8")


def load_encoder(folder: Path, out: Path, max_length: int | None = None, **options: Any) -> EncoderModel:
    """The float package of a hub folder, loaded on one thread."""
    edgelm.export(folder, out, precision="fp32", verify=False, **options)
    model = edgelm.load(out, threads=1, max_length=max_length)
    assert isinstance(model, EncoderModel)
    return model


def _body_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    prefix, inner = config["model_type"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.embeddings.word_embeddings.weight": (config["vocab_size"], HIDDEN),
        f"{prefix}.embeddings.position_embeddings.weight": (config["max_position_embeddings"], HIDDEN),
        f"{prefix}.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], HIDDEN),
        **_norm(f"{prefix}.embeddings.LayerNorm"),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"{prefix}.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            shapes |= _dense(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
        shapes |= _dense(f"{layer}.attention.output.dense", HIDDEN, HIDDEN)
        shapes |= _norm(f"{layer}.attention.output.LayerNorm")
        shapes |= _dense(f"{layer}.intermediate.dense", HIDDEN, inner)
        shapes |= _dense(f"{layer}.output.dense", inner, HIDDEN)
        shapes |= _norm(f"{layer}.output.LayerNorm")
    return shapes


def _head_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    class_name, labels = config["architectures"][0], len(config.get("id2label", "01"))
    match class_name:
        case "BertForSequenceClassification":
            return {**_dense("bert.pooler.dense", HIDDEN, HIDDEN), **_dense("classifier", HIDDEN, labels)}
        case "BertForTokenClassification":
            return _dense("classifier", HIDDEN, labels)
        case "BertForQuestionAnswering":
            return _dense("qa_outputs", HIDDEN, 2)
        case "BertForMaskedLM":
            transform = "cls.predictions.transform"
            return {
                **_dense(f"{transform}.dense", HIDDEN, HIDDEN),
                **_norm(f"{transform}.LayerNorm"),
                "cls.predictions.bias": (config["vocab_size"],),
            }
        case "ElectraForPreTraining":
            predictions = "discriminator_predictions"
            return {
                **_dense(f"{predictions}.dense", HIDDEN, HIDDEN),
                **_dense(f"{predictions}.dense_prediction", HIDDEN, 1),
            }
        case _:
            return {}


def _dense(name: str, size: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, size), f"{name}.bias": (out,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    if len(shape) == 1:
        values = rng.uniform(0.5, 1.5, shape) if "Norm.weight" in name else rng.normal(0, 0.3, shape)
    else:
        values = rng.normal(0, 1 if "embeddings" in name else scale / np.sqrt(shape[1]), shape)
    return values.astype(np.float32)
