"""Large random checkpoints in hub layout, written tensor by tensor; bfloat16, with the layout of real ones but no meaning."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environments import ROOT

Config = Mapping[str, Any]
Tensor = tuple[str, tuple[int, ...]]  # name and shape

CONFIG: Config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# The shapes of Llama 3.2 1B: 1.24 billion parameters.
BILLION: Config = {**CONFIG, "num_hidden_layers": 16, "vocab_size": 128256}

# The shapes of Llama 3.1 8B: 8.03 billion parameters, 16 GB.
EIGHT_BILLION_DENSE: Config = {
    **CONFIG,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "head_dim": 128,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}

_SHARDS = 4
_TOKENIZER = ROOT / "tests" / "golden" / "llama"


def write_checkpoint(folder: Path, config: Config = CONFIG, *, sparse: bool = False) -> int:
    """Writes the checkpoint in 4 shards, and returns its bytes.

    Args:
        sparse: all weights are zero and take no room on a disk that knows sparse files.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(_TOKENIZER / name, folder / name)
    tensors = list(_tensors(config))
    noise = None if sparse else _noise()
    index: dict[str, str] = {}
    for shard in range(_SHARDS):
        name = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors"
        part = tensors[shard * len(tensors) // _SHARDS : (shard + 1) * len(tensors) // _SHARDS]
        _write_shard(folder / name, part, noise)
        index |= {tensor: name for tensor, _ in part}
    total = sum(2 * _count(shape) for _, shape in tensors)
    document = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return total


def _tensors(c: Config) -> Iterator[Tensor]:
    width = c["hidden_size"]
    queries, keys = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    yield "model.embed_tokens.weight", (c["vocab_size"], width)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (width,)
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield f"{layer}.self_attn.{name}.weight", (rows, width)
        if c["model_type"] == "qwen3_moe":
            yield f"{layer}.self_attn.q_norm.weight", (c["head_dim"],)
            yield f"{layer}.self_attn.k_norm.weight", (c["head_dim"],)
        yield f"{layer}.self_attn.o_proj.weight", (width, queries)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
        yield from _feed_forward(c, layer)
    yield "model.norm.weight", (width,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], width)


def _feed_forward(c: Config, layer: str) -> Iterator[Tensor]:
    width = c["hidden_size"]
    if c["model_type"] == "llama":
        yield from _gated(f"{layer}.mlp", ("gate_proj", "up_proj", "down_proj"), c["intermediate_size"], width)
        return
    inner = c.get("moe_intermediate_size", c["intermediate_size"])
    mixtral = c["model_type"] == "mixtral"
    scope = f"{layer}.block_sparse_moe" if mixtral else f"{layer}.mlp"
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    experts = c["num_local_experts"] if mixtral else c["num_experts"]
    yield f"{scope}.gate.weight", (experts, width)
    for e in range(experts):
        yield from _gated(f"{scope}.experts.{e}", names, inner, width)


def _gated(scope: str, names: Sequence[str], inner: int, width: int) -> Iterator[Tensor]:
    for name, shape in zip(names, ((inner, width), (inner, width), (width, inner)), strict=True):
        yield f"{scope}.{name}.weight", shape


def _noise() -> np.ndarray:
    """4 Mi normal values as bfloat16 bits: the upper halves of float32."""
    values = np.random.default_rng(0).standard_normal(1 << 22, np.float32) * np.float32(0.02)
    return (values.view(np.uint32) >> 16).astype("<u2")


def _write_shard(file: Path, tensors: Sequence[Tensor], noise: np.ndarray | None) -> None:
    header: dict[str, object] = {}
    offset = 0
    for name, shape in tensors:
        end = offset + 2 * _count(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        if noise is None:
            out.truncate(out.tell() + offset)
            return
        for position, (_, shape) in enumerate(tensors):
            _write_values(out, _count(shape), np.roll(noise, 7919 * position) if len(shape) > 1 else _ones(shape[0]))


def _write_values(out, count: int, values: np.ndarray) -> None:
    for start in range(0, count, len(values)):
        out.write(values[: min(len(values), count - start)].tobytes())


def _ones(count: int) -> np.ndarray:
    return np.full(count, 0x3F80, "<u2")


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
