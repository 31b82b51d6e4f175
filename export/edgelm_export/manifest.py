"""What a package's manifest says about the export that made it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgelm import __version__
from edgelm.generation_defaults import read_generation_config, unsupported_keys
from edgelm.manifest import PROBES, Manifest
from edgelm.package import sha256
from edgelm.providers import Provider
from edgelm.tasks import EncoderFacts
from edgelm_export.assemble import Form
from edgelm_export.blocks.cache import cache_geometry
from edgelm_export.blocks.encoder import has_token_types
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.model import Model
from edgelm_export.quantize.recipe import Recipe
from edgelm_export.sources import Source
from edgelm_export.task import Task
from edgelm_export.write import write_probes


def describe_export(model: Model, recipe: Recipe, provider: Provider) -> Manifest:
    """The manifest of a package to be written; its source, its files, and later its quality figures are still to be filled in.

    Raises:
        UnsupportedConfig: generation settings that no generation could use.
    """
    c, writes = model.config, model.family != "encoder"
    generation = generation_defaults(model.checkpoint) if writes else {}
    notes = [*model.notes, *unsupported_settings(generation)]
    return Manifest(
        family=model.family,
        task=model.task.name,
        architecture=c.model_type,
        programs={name: f"{name}.onnx" for name in model.programs},
        cache=cache_geometry(c, provider, recipe.kv_cache) if writes else None,
        encoder=None if model.family == "decoder" else encoder_facts(model, recipe),
        context_length=c.context_length,
        vocab_size=model.target_vocab_size,
        parameters=model.checkpoint.parameters,
        device=provider.name,
        activations=provider.activation_dtype,
        precision=recipe.name,
        recipe=recipe.as_manifest(),
        source={},
        files={},
        generation=generation,
        quality={},
        versions={"edgelm": __version__, "onnx-ir": version("onnx-ir")},
        notes=tuple(notes),
    )


def form_entry(model: Model, form: Form, folder: Path) -> dict[str, Any]:
    """What the manifest says of the programs for a further provider, whose probes are written into `folder`."""
    probes = write_probes(form.programs.values(), form.provider, folder, form.file(PROBES))
    cache = None if model.family == "encoder" else cache_geometry(model.config, form.provider).as_manifest()
    return {"programs": form.files, "cache": cache, "activations": form.provider.activation_dtype, "probes": probes}


def encoder_facts(model: Model, recipe: Recipe) -> EncoderFacts:
    """What the runtime must know to feed a model's encoder and to serve its task."""
    c = model.config
    return task_facts(
        model.task,
        hidden_size=c.hidden_size,
        vocab_size=c.vocab_size,
        pad_token_id=c.pad_token_id,
        token_types=has_token_types(c),
        alone=recipe.rounds_inputs,
    )


def task_facts(task: Task, *, hidden_size: int, **facts: Any) -> EncoderFacts:
    """What the runtime must know to serve a task of an encoder, besides the other `facts`."""
    width = task.dense[-1].out_features if task.dense else hidden_size * len(task.pooling)
    return EncoderFacts(
        hidden_size=hidden_size,
        **facts,
        lowercase=task.lowercase,
        labels=task.labels,
        problem_type=task.problem_type,
        dimensions=min(width, task.truncate_dim or width),
        pooling=task.pooling,
        normalized=task.normalized,
        prompts=dict(task.prompts),
        default_prompt=task.default_prompt,
    )


def unsupported_settings(generation: dict[str, Any]) -> list[str]:
    """A note on each of a checkpoint's generation settings that edgelm does not have."""
    return [f"generation setting {key!r} is not supported and was left out" for key in unsupported_keys(generation)]


_TOKENS = ("eos_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
_SETTINGS = (
    *("max_length", "min_length", "num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size"),
    *("repetition_penalty", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "do_sample"),
)


def generation_defaults(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's generation settings; older ones name their tokens, or all of them, in config.json alone.

    Raises:
        UnsupportedConfig: settings that no generation could use.
    """
    keys = _TOKENS if checkpoint.generation_config else (*_TOKENS, *_SETTINGS)
    named = {key: value for key in keys if (value := checkpoint.config.get(key)) is not None}
    defaults = {**named, **checkpoint.generation_config}
    read_generation_config(defaults)
    return defaults


def source_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """Every file of a checkpoint by its name in the manifest."""
    folder = checkpoint.files[0].parent
    return {file.relative_to(folder).as_posix(): file for file in checkpoint.files}


def undigested(source: Source, checkpoint: Checkpoint) -> dict[str, Path]:
    """Those of them whose digests are not known: what was fetched was checked against its own, and need not be read once more."""
    return {name: file for name, file in source_files(checkpoint).items() if name not in source.sha256}


def source_entry(source: Source, checkpoint: Checkpoint, known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Where a checkpoint comes from, with the digest of every file of it; `known` has those of `undigested` files."""
    digests = {**source.sha256, **(known or {})}
    return {
        "id": source.id,
        "revision": source.revision,
        "format": checkpoint.format,
        "files": {name: digests.get(name) or sha256(file) for name, file in source_files(checkpoint).items()},
    }
