"""A tiny random encoder-decoder in hub layout, for tests of what stands above the graphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.architectures.random_checkpoints import Tensors, tiny_tokenizer

SIZE, INNER, LAYERS, VOCAB, POSITIONS = 32, 48, 2, 160, 64


def tiny_seq2seq(folder: Path, seed: int = 0) -> Path:
    """A Blenderbot checkpoint with tied tables. Returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in _SIDE.items()}
    (folder / "config.json").write_text(json.dumps({**_CONFIG, **sides}), encoding="utf-8")
    (folder / "tokenizer.json").write_text(tiny_tokenizer(VOCAB), encoding="utf-8")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(_tensors(seed), folder / "model.safetensors")
    return folder


_SIDE = {"layers": LAYERS, "attention_heads": 2, "ffn_dim": INNER}
_CONFIG = {
    "architectures": ["BlenderbotForConditionalGeneration"],
    "model_type": "blenderbot",
    "d_model": SIZE,
    "vocab_size": VOCAB,
    "max_position_embeddings": POSITIONS,
    "activation_function": "gelu",
    "scale_embedding": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def _tensors(seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.shared.weight": (VOCAB, SIZE), "final_logits_bias": (1, VOCAB)}
    for side, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn"))):
        shapes[f"model.{side}.embed_positions.weight"] = (POSITIONS, SIZE)
        shapes |= _norm(f"model.{side}.layer_norm")
        for i in range(LAYERS):
            layer = f"model.{side}.layers.{i}"
            shapes |= _norm(f"{layer}.final_layer_norm")
            shapes |= _linear(f"{layer}.fc1", INNER, SIZE) | _linear(f"{layer}.fc2", SIZE, INNER)
            for attention in attentions:
                shapes |= _norm(f"{layer}.{attention}_layer_norm")
                for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    shapes |= _linear(f"{layer}.{attention}.{name}", SIZE, SIZE)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (SIZE,), f"{name}.bias": (SIZE,)}
