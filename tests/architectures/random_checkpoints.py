"""Random checkpoints: the contents of a config.json in, tensors and hub folders out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.architectures.asked_tensors import asked_tensors
from tests.architectures.random_configs import Config

# Model types whose shapes are written down here as well, independent of what the architecture asks for.
_WITH_SHAPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})

Tensors = dict[str, NDArray[np.float32]]

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
_PRINTABLE = ["Ċ", "Ġ", *map(chr, range(33, 127))]  # newline and space as byte-level BPE writes them
_PAIRS = re.findall("..", "thheineranreonatenndtiesorteofedisitalarsttontngsehaasouiolevecomedehiri")


def head_dim(config: Config) -> int:
    """As stated, or an equal share of the hidden size."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def key_value_heads(config: Config) -> int:
    """As stated, or one for each query head."""
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint of the Llama family, by its name in the hub's files, Linear weights [out, in]."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in _layer_shapes(config).items()}
    return shapes


def random_tensors(config: Config, seed: int) -> Tensors:
    """Weights that keep activations near 1 and attention far from uniform, so that every part of them matters."""
    rng = np.random.default_rng(seed)
    if config["model_type"] in _WITH_SHAPES:
        return {name: _draw(rng, name, shape, shape[-1]) for name, shape in tensor_shapes(config).items()}
    tensors: Tensors = {}
    for name, asked in asked_tensors(config).items():
        values = _draw(rng, asked.canonical, asked.shape, asked.inputs)
        tensors[name] = values - np.float32(1) if asked.from_one else values
    return tensors


def write_checkpoint(folder: Path, config: Config, tensors: Mapping[str, NDArray[Any]]) -> Path:
    """A hub folder: config.json, model.safetensors, tokenizer files. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_config(folder: Path, config: Config) -> None:
    """config.json and the tokenizer files, which is all of a hub folder but its weights."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(tiny_tokenizer(config["vocab_size"]), encoding="utf-8")
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def tiny_vocabulary(vocab_size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens (special ones, printable ASCII, common pairs of letters, fillers) and merges of a byte-level BPE."""
    tokens = [*SPECIAL_TOKENS, *_PRINTABLE]
    if vocab_size < len(tokens):
        tokens = tokens[:vocab_size]
    pairs = _PAIRS[: vocab_size - len(tokens)]
    fillers = [f"<filler_{n}>" for n in range(vocab_size - len(tokens) - len(pairs))]
    return [*tokens, *pairs, *fillers], [(pair[0], pair[1]) for pair in pairs]


def tiny_tokenizer(vocab_size: int) -> str:
    """tokenizer.json of `tiny_vocabulary`: printable ASCII encodes and decodes without loss."""
    tokens, merges = tiny_vocabulary(vocab_size)
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer.to_str()


def _layer_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], head_dim(config)
    queries, keys = config["num_attention_heads"] * size, key_value_heads(config) * size
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    with_bias: list[str] = []
    if config["model_type"] == "qwen2" or config.get("attention_bias"):
        with_bias += ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    if config["model_type"] != "qwen2" and config.get("attention_bias"):
        with_bias += ["self_attn.o_proj"]
    if config.get("mlp_bias"):
        with_bias += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    shapes |= {f"{name}.bias": shapes[f"{name}.weight"][:1] for name in with_bias}
    if config["model_type"] == "qwen3":
        shapes |= {"self_attn.q_norm.weight": (size,), "self_attn.k_norm.weight": (size,)}
    return shapes


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...], inputs: int) -> NDArray[np.float32]:
    if "norm" in name and not name.endswith("bias"):
        values = rng.uniform(0.5, 1.5, shape)
    elif "correction" in name:  # of scores from 0 to 1: no more than it takes to choose otherwise now and then
        values = rng.normal(0, 0.1, shape)
    elif len(shape) == 1:
        values = rng.normal(0, 0.3, shape)
    elif "embed_tokens" in name or "lm_head" in name:
        values = rng.normal(0, 2 / math.sqrt(inputs), shape)
    else:
        values = rng.normal(0, 1.5 / math.sqrt(inputs), shape)
    return values.astype(np.float32)
