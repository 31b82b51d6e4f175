"""Who runs a mixture of experts: edgelm, edgelm with its experts computed densely, and llama.cpp; on synthetic checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from contenders import EDGELM, Contender, build_in, export_package, prepare
from environments import BUILD
from synthetic import write_checkpoint

from edgelm.manifest import MANIFEST, sealed
from edgelm.package import sha256

Config = Mapping[str, Any]

_COMMON: Config = {
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# Widths of Mixtral-8x7B and of Qwen3-30B-A3B with half its experts. Layers are few, so that they fit, and the vocabulary is cut
# with them, so that the head has about the share of a decode step that it has in the whole model.
CONFIGS: Mapping[str, Config] = {
    "mixtral": {
        **_COMMON,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 1,
        "vocab_size": 1000,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rope_theta": 1000000.0,
    },
    "qwen3_moe": {
        **_COMMON,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 2,
        "vocab_size": 6400,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "rope_theta": 1000000.0,
    },
}

# What must load fast, and what must export in little memory: 8.1 billion parameters, with the widths of the second.
SIXTY_FOUR_BY_24: Config = {
    **CONFIGS["qwen3_moe"],
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "moe_intermediate_size": 512,
}
EIGHT_BILLION: Config = {**CONFIGS["qwen3_moe"], "num_hidden_layers": 25}


def synthetic_checkpoint(name: str) -> Path:
    """The checkpoint of that name, written where it is not yet."""
    folder = BUILD / f"synthetic-{name}"
    if not (folder / "model.safetensors.index.json").exists():
        write_checkpoint(folder, CONFIGS[name])
    return folder


def contenders(name: str, threads: int) -> dict[str, Contender]:
    """All of them, by name, for one of the checkpoints."""
    ours = Contender(
        "edgelm", "edgelm, int4", "worker_edgelm.py", EDGELM, threads, partial(export_package, "int4"), f"{name}-edgelm"
    )
    plain = Contender(
        "edgelm-plain",
        "edgelm, int4-plain: rounded to nearest in blocks of 32 without zero points, as Q4_0 is",
        "worker_edgelm.py",
        EDGELM,
        threads,
        partial(export_package, "int4-plain"),
        f"{name}-edgelm-plain",
    )
    dense = Contender(
        "edgelm-dense",
        "the same package with every expert computed for every token, by the same operator",
        "worker_edgelm.py",
        EDGELM,
        threads,
        lambda checkpoint, folder: compute_all_experts(prepare(ours, checkpoint), folder),
        f"{name}-edgelm-dense",
    )
    peer = Contender(
        "llama.cpp",
        "llama.cpp, Q4_0",
        "worker_llamacpp.py",
        ("llama-cpp-python", "gguf"),
        threads,
        partial(build_in, "llamacpp", "build_llamacpp.py"),
        f"{name}-llamacpp",
        peer="llamacpp",
    )
    return {contender.name: contender for contender in (ours, plain, dense, peer)}


def compute_all_experts(package: Path, folder: Path) -> None:
    """A copy of a package whose routers choose all experts; it shares the data file."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(package, folder, copy_function=os.link)
    graph, manifest = folder / "decoder.onnx", folder / MANIFEST
    model = onnx.load(graph, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "QMoE":
            experts = next(tensor.dims[0] for tensor in model.graph.initializer if tensor.name == node.input[2])
            next(attribute for attribute in node.attribute if attribute.name == "k").i = experts
    values = json.loads(manifest.read_text(encoding="utf-8"))
    for file in (graph, manifest):
        file.unlink()  # the links of the original
    graph.write_bytes(model.SerializeToString())
    values["files"][graph.name] = {"sha256": sha256(graph), "size": graph.stat().st_size}
    manifest.write_text(sealed(values), encoding="utf-8")
