"""Writes a synthetic checkpoint of Mixtral or Qwen3-MoE as a GGUF file in Q4_0: CHECKPOINT FOLDER. Runs in llama.cpp's environment.

What llama-quantize would do: matrices in Q4_0, the head in more bits (Q8_0, as many as edgelm's int4 gives it), routers and norms in
float32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

Array = Any
Read = Callable[[str], Array]

_ATTENTION = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
_EXPERTS = {
    "mixtral": ("block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}),
    "qwen3_moe": ("mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
}


def main(checkpoint: Path, folder: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    architecture = {"mixtral": "llama", "qwen3_moe": "qwen3moe"}[config["model_type"]]
    writer = GGUFWriter(folder / "model.gguf", architecture, use_temp_file=True)
    _describe(writer, config)
    for name, matrices, kind in _tensors(config, reader(checkpoint)):
        stored = [matrix if kind == GGMLQuantizationType.F32 else quantize(matrix, kind) for matrix in matrices]
        writer.add_tensor(name, stored[0] if len(stored) == 1 else np.stack(stored), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reader(checkpoint: Path) -> Read:
    """A function that reads a bfloat16 tensor by name."""
    places: dict[str, tuple[Path, int, list[int]]] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size))
        for name, entry in header.items():
            places[name] = file, 8 + size + entry["data_offsets"][0], entry["shape"]

    def read(name: str) -> Array:
        file, offset, shape = places[name]
        bits = np.fromfile(file, "<u2", int(np.prod(shape)), offset=offset)
        return (bits.astype(np.uint32) << 16).view(np.float32).reshape(shape)

    return read


def _describe(writer: GGUFWriter, c: dict[str, Any]) -> None:
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_vocab_size(c["vocab_size"])
    writer.add_expert_count(c.get("num_experts", c.get("num_local_experts")))
    writer.add_expert_used_count(c["num_experts_per_tok"])
    if "moe_intermediate_size" in c:
        writer.add_expert_feed_forward_length(c["moe_intermediate_size"])
    writer.add_tokenizer_model("no_vocab")


def _tensors(c: dict[str, Any], read: Read) -> Iterator[tuple[str, Iterable[Array], GGMLQuantizationType]]:
    """Names, what a tensor is stacked of, and types."""
    whole, small, head = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0
    yield "token_embd.weight", [read("model.embed_tokens.weight")], head
    yield "output_norm.weight", [read("model.norm.weight")], whole
    yield "output.weight", [read("lm_head.weight")], head
    scope, experts = _EXPERTS[c["model_type"]]
    count = c.get("num_experts", c.get("num_local_experts"))
    for i in range(c["num_hidden_layers"]):
        ours, theirs = f"model.layers.{i}", f"blk.{i}"
        yield f"{theirs}.attn_norm.weight", [read(f"{ours}.input_layernorm.weight")], whole
        yield f"{theirs}.ffn_norm.weight", [read(f"{ours}.post_attention_layernorm.weight")], whole
        for name, source in _ATTENTION.items():
            heads = {"attn_q": c["num_attention_heads"], "attn_k": c["num_key_value_heads"]}.get(name, 0)
            values = read(f"{ours}.self_attn.{source}.weight")
            turned = heads and c["model_type"] == "mixtral"
            yield f"{theirs}.{name}.weight", [_interleaved(values, heads) if turned else values], small
        if c["model_type"] == "qwen3_moe":
            for name in ("q_norm", "k_norm"):
                yield f"{theirs}.attn_{name}.weight", [read(f"{ours}.self_attn.{name}.weight")], whole
        yield f"{theirs}.ffn_gate_inp.weight", [read(f"{ours}.{scope}.gate.weight")], whole
        for name, source in experts.items():
            matrices = (read(f"{ours}.{scope}.experts.{e}.{source}.weight") for e in range(count))
            yield f"{theirs}.ffn_{name}_exps.weight", matrices, small


def _interleaved(values: Array, heads: int) -> Array:
    """Rows of q or k in the order of llama.cpp's rotary positions for the llama architecture."""
    pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
    return pairs.swapaxes(1, 2).reshape(values.shape)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
