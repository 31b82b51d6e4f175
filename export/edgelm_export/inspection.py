"""What a checkpoint is and what an export of it would weigh, from headers alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edgelm.providers import PROVIDERS, Provider
from edgelm_export.assemble import plan
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.model import Model, understand
from edgelm_export.quantize.recipe import PRECISIONS, preset
from edgelm_export.sources import resolve_headers


def inspect_checkpoint(source: str | Path, *, revision: str | None = None, offline: bool = False) -> dict[str, Any]:
    """Facts of a checkpoint; raises what an export would raise before it reads a weight."""
    with resolve_headers(str(source), revision=revision, offline=offline) as found:
        return _facts(understand(open_checkpoint(found.path)), found.id)


def _facts(model: Model, source: str) -> dict[str, Any]:
    c, provider = model.config, PROVIDERS["cpu"]
    types: Counter[str] = Counter(tensor.dtype for tensor in model.checkpoint.tensors.values())
    nbytes: Counter[str] = Counter()
    for tensor in model.checkpoint.tensors.values():
        nbytes[tensor.dtype] += tensor.nbytes
    return {
        "source": source,
        "format": model.checkpoint.format,
        "architecture": c.model_type,
        "task": model.task.name,
        "parameters": model.checkpoint.parameters,
        "tensor_types": {kind: {"tensors": count, "bytes": nbytes[kind]} for kind, count in sorted(types.items())},
        **({"quantization": model.checkpoint.quantization} if model.checkpoint.quantization else {}),
        "context_length": c.context_length,
        "layers": c.num_hidden_layers,
        "hidden_size": c.hidden_size,
        "attention": f"{c.num_attention_heads} query heads, {c.num_key_value_heads} key-value heads of {c.head_dim}",
        "vocab_size": c.vocab_size,
        **(c.cache_geometry(provider.activation_dtype).facts() if model.family == "decoder" else {}),
        "export_bytes": {name: _export_bytes(model, name, provider) for name in PRECISIONS},
        "notes": list(model.notes),
    }


def _export_bytes(model: Model, precision: str, provider: Provider) -> int:
    return plan(model, preset(precision, model.config.num_hidden_layers, family=model.family), provider).nbytes
