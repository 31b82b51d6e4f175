"""What a package's manifest says about the export that made it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from edgelm import __version__
from edgelm.generation_config import GenerationConfig, unsupported_keys
from edgelm.package import Manifest, sha256
from edgelm.providers import Provider
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.model import Model
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.sources import Source


def describe_export(model: Model, recipe: Recipe, provider: Provider, source: Source) -> Manifest:
    """The manifest of a package to be written; its files, and later its quality figures, are still to be filled in.

    Raises:
        UnsupportedConfig: generation settings that no generation could use.
    """
    c, generation = model.config, generation_defaults(model.checkpoint)
    notes = [
        *c.notes,
        *(f"generation setting {key!r} is not supported and was left out" for key in unsupported_keys(generation)),
    ]
    return Manifest(
        family="decoder",
        task="text-generation",
        architecture=c.model_type,
        programs={name: f"{name}.onnx" for name in model.architecture.programs},
        cache=c.cache_geometry(provider.activation_dtype),
        context_length=c.context_length,
        vocab_size=c.vocab_size,
        parameters=model.parameters,
        device=provider.name,
        precision=recipe.name,
        recipe=recipe.as_manifest(),
        source=_source_entry(source, model.checkpoint),
        files={},
        generation=generation,
        quality={},
        versions={"edgelm": __version__, "onnx-ir": version("onnx-ir")},
        notes=tuple(notes),
    )


def generation_defaults(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's generation settings; older ones name their end token in config.json alone.

    Raises:
        UnsupportedConfig: settings that no generation could use.
    """
    end = {key: value for key in ("eos_token_id",) if (value := checkpoint.config.get(key)) is not None}
    defaults = {**end, **checkpoint.generation_config}
    GenerationConfig.from_checkpoint(defaults)
    return defaults


def _source_entry(source: Source, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "id": source.id,
        "revision": source.revision,
        "format": checkpoint.format,
        # What was fetched was checked against these digests, so it need not be read once more.
        "files": {file.name: source.sha256.get(file.name) or sha256(file) for file in checkpoint.files},
    }
