"""What a checkpoint is and what an export of it would weigh, from headers alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edgelm.manifest import OPTIMUM
from edgelm.providers import PROVIDERS, Provider
from edgelm_export.assemble import plan
from edgelm_export.blocks.cache import cache_geometry
from edgelm_export.checkpoint import Checkpoint, open_checkpoint
from edgelm_export.hand_over import chosen_task, is_handed_over
from edgelm_export.model import Model, understand
from edgelm_export.quantize.recipe import PRECISIONS, preset
from edgelm_export.read_config import model_type_of
from edgelm_export.sources import resolve_headers


def inspect_checkpoint(source: str | Path, *, revision: str | None = None, offline: bool = False) -> dict[str, Any]:
    """Facts of a checkpoint; raises what an export would raise before it reads a weight."""
    with resolve_headers(str(source), revision=revision, offline=offline) as found:
        checkpoint = open_checkpoint(found.path)
        if is_handed_over(checkpoint):
            return _foreign_facts(checkpoint, found.id)
        return _facts(understand(checkpoint), found.id)


def _foreign_facts(checkpoint: Checkpoint, source: str) -> dict[str, Any]:
    """What is known of a checkpoint before Optimum exports it."""
    task, _ = chosen_task(checkpoint, None, None)
    return {
        "source": source,
        "format": checkpoint.format,
        "architecture": model_type_of(checkpoint),
        "exporter": OPTIMUM,
        "task": task.name,
        "parameters": checkpoint.parameters,
        "tensor_types": _tensor_types(checkpoint),
        "notes": ["edgelm has no definition of this model type: an export hands it to Optimum, which loads it whole"],
    }


def _tensor_types(checkpoint: Checkpoint) -> dict[str, Any]:
    types: Counter[str] = Counter(tensor.dtype for tensor in checkpoint.tensors.values())
    nbytes: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        nbytes[tensor.dtype] += tensor.nbytes
    return {kind: {"tensors": count, "bytes": nbytes[kind]} for kind, count in sorted(types.items())}


def _facts(model: Model, source: str) -> dict[str, Any]:
    c, provider = model.config, PROVIDERS["cpu"]
    return {
        "source": source,
        "format": model.checkpoint.format,
        "architecture": c.model_type,
        "task": model.task.name,
        "parameters": model.checkpoint.parameters,
        "tensor_types": _tensor_types(model.checkpoint),
        **({"quantization": model.checkpoint.quantization} if model.checkpoint.quantization else {}),
        "context_length": c.context_length,
        "layers": c.num_hidden_layers,
        "hidden_size": c.hidden_size,
        "attention": c.heads,
        "vocab_size": c.vocab_size,
        **(cache_geometry(c, provider).facts() if model.family == "decoder" else {}),
        "export_bytes": {name: _export_bytes(model, name, provider) for name in PRECISIONS},
        "notes": list(model.notes),
    }


def _export_bytes(model: Model, precision: str, provider: Provider) -> int:
    return plan(model, preset(precision, model.config.num_hidden_layers, family=model.family), provider).nbytes
