"""The data flow of an export through Optimum: a checkpoint that edgelm has no definition for -> Optimum's graphs -> package -> verified.

As pipeline.py, but that the graphs are traced by a framework. The package has the same manifest, marked with its exporter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm import __version__, tasks
from edgelm.errors import InvalidOption, UnsupportedConfig
from edgelm.manifest import OPTIMUM, Manifest
from edgelm.package import Package
from edgelm.providers import PROVIDERS
from edgelm.session import Program
from edgelm_export import optimum
from edgelm_export.architectures import REGISTRY
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.encoder_heads import no_head
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.evaluation import EvaluationText, choose_text
from edgelm_export.foreign_programs import ForeignPrograms, Written
from edgelm_export.foreign_quality import against_original
from edgelm_export.manifest import generation_defaults, source_entry, task_facts, unsupported_settings
from edgelm_export.model import with_modules
from edgelm_export.nearest import unknown_architecture
from edgelm_export.quality_page import with_quality
from edgelm_export.quantize.formats import find_format, with_block_size
from edgelm_export.quantize.recipe import DEFAULT_PRECISION, Recipe
from edgelm_export.quantize.recipe_file import recipe_from_file
from edgelm_export.read_config import model_type_of
from edgelm_export.sources import Source
from edgelm_export.task import Task
from edgelm_export.tasks import choose_task
from edgelm_export.verify import Side, measure_programs, recorded_run
from edgelm_export.write import digests, package_folder, write_probes, write_texts

if TYPE_CHECKING:
    from edgelm_export.pipeline import ExportOptions

_PROVIDER = PROVIDERS["cpu"]
_FLOAT = Recipe("fp32", (("*", "float32"),))

# Names are the modules' own, so what can be told apart is layers, which have a number, and the two ends.
_LAYERS = "*.[0-9]*"
_PRESETS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "fp32": _FLOAT.rules,
    "fp16": (("*", "float16"),),
    "int8": (("*", "int8-b128"),),
    "int8-plain": (("*", "int8-b128"),),
    "int4": ((_LAYERS, "int4-b32-asym"), ("*", "int8-b128")),
    "int4-plain": ((_LAYERS, "int4-b32"), ("*", "int8-b128")),
}

# Where a config says nothing, as of models whose positions are relative.
_DEFAULT_LENGTH = 2048


def is_handed_over(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is Optimum's to export: nobody here defines its type, and the extra is installed."""
    return checkpoint.format == "hf" and model_type_of(checkpoint) not in REGISTRY and optimum.is_installed()


def hand_over(
    checkpoint: Checkpoint, source: Source, target: Path, options: ExportOptions, say: Callable[[str], None]
) -> Package:
    """Exports a checkpoint through Optimum into a package at `target`.

    Raises:
        CheckpointError: Optimum does not know the type either, or cannot export the checkpoint.
        InvalidOption: a device, a precision, a format or adapters that such graphs do not have.
        VerificationError: the graphs say something else than transformers does.
    """
    if options.adapter or options.keep_adapter:
        raise InvalidOption(
            "adapters belong to architectures that edgelm defines, and this one goes through Optimum; merge "
            "the adapter first (peft: merge_and_unload) and export the result"
        )
    task, family = chosen_task(checkpoint, options.task, options.pooling)
    recipe, checkpoint = _recipe(options, family), with_modules(checkpoint, task)
    model_type = model_type_of(checkpoint)
    say(
        f"note: edgelm has no definition of {model_type}; it is handed to Optimum, which loads the whole model in float32"
    )
    origin = checkpoint.files[0].parent
    original = optimum.Original.load(origin, task.name)
    with (
        package_folder(target, force=options.force) as folder,
        tempfile.TemporaryDirectory(prefix=".edgelm-optimum.", dir=folder.parent) as scratch,
    ):
        write_texts(checkpoint, folder)
        graphs = original.write(Path(scratch) / "optimum")
        programs = ForeignPrograms(checkpoint, task, graphs, _PROVIDER)
        written = programs.write(recipe, folder)
        manifest = _describe(checkpoint, source, original, task, family, recipe, written, options.context_length)
        probes = write_probes(written.graphs, _PROVIDER, folder)
        names = {name: f"{name}.onnx" for name in graphs}
        manifest = replace(manifest, programs=names, files=digests(folder), probes=probes)
        manifest.save(folder)
        del original  # a trace may change the model, as it does to the attention of BigBird
        if options.verify:
            package, text = Package.open(folder), choose_text(options.eval_text)
            manifest = with_quality(manifest, _verify(package, programs, origin, Path(scratch), text), folder)
            replace(manifest, recorded_run=recorded_run(package, _PROVIDER, text)).save(folder)
    return Package.open(target)


def chosen_task(checkpoint: Checkpoint, asked: str | None, pooling: str | None) -> tuple[Task, str]:
    """The task of an export through Optimum, and the family of the package.

    Raises:
        UnsupportedArchitecture: Optimum does not know the type either.
        UnsupportedConfig: the checkpoint is quantized.
        InvalidOption, UnsupportedConfig: as `choose_task`.
    """
    model_type = model_type_of(checkpoint)
    if checkpoint.quantization is not None:
        raise UnsupportedConfig(
            f"{checkpoint.files[0]}: edgelm has no definition of {model_type}, and what Optimum exports must be float, not "
            f"{checkpoint.quantization}; take the original checkpoint"
        )
    served = optimum.served_tasks(model_type)
    if not served:
        raise unknown_architecture(checkpoint)
    writes = tasks.TEXT_GENERATION in served or tasks.TEXT_TO_TEXT in served
    stand_in = Architecture(
        model_type,
        {},
        read_config=lambda _: None,
        names={},
        decoder=(lambda g, c: None) if writes else None,
        heads={task: no_head for task in served if task not in (tasks.TEXT_GENERATION, tasks.TEXT_TO_TEXT)},
        seq2seq=tasks.TEXT_TO_TEXT in served,
    )
    task = choose_task(checkpoint, stand_in, asked, pooling)
    families = {tasks.TEXT_GENERATION: "decoder", tasks.TEXT_TO_TEXT: "encoder-decoder"}
    return task, families.get(task.name, "encoder")


def _recipe(options: ExportOptions, family: str) -> Recipe:
    if options.device != _PROVIDER.name:
        raise InvalidOption(
            f"device {options.device!r}: Optimum's graphs run on {_PROVIDER.name} only; leave --device away"
        )
    if options.max_kld is not None or options.target_size is not None or options.calibrate:
        raise InvalidOption(
            "budgets and --calibrate need the model's own definition, and Optimum's graphs have none; give --precision"
        )
    if options.recipe is not None:
        recipe = recipe_from_file(Path(options.recipe), 0, options.block_size)
    else:
        name = options.precision or DEFAULT_PRECISION[family]
        if name not in _PRESETS:
            raise InvalidOption(f"precision {name!r} is not known (known: {', '.join(_PRESETS)})")
        rules = _PRESETS[name]
        if options.block_size is not None:
            rules = tuple((glob, with_block_size(form, options.block_size)) for glob, form in rules)
        recipe = Recipe(name, rules, optional=len(rules))
    kv_cache = options.kv_cache or recipe.kv_cache
    if kv_cache is not None:
        raise InvalidOption(
            f"a KV cache of {kv_cache} is not for Optimum's graphs, which grow theirs; leave --kv-cache out"
        )
    for _, form in recipe.rules:
        found = find_format(form)
        if found.block_sums or found.input_scale or found.keeps:
            raise InvalidOption(
                f"recipe {recipe.name}: Optimum's graphs take no {form}; choose int8-b128 or int4-b32-asym"
            )
    return recipe


def _describe(
    checkpoint: Checkpoint,
    source: Source,
    original: optimum.Original,
    task: Task,
    family: str,
    recipe: Recipe,
    written: Written,
    asked_length: int | None,
) -> Manifest:
    generation = generation_defaults(checkpoint) if family != "encoder" else {}
    length, notes = _context_length(original, task, asked_length)
    made = optimum.versions()
    notes = (
        f"exported by Optimum {made['optimum-onnx']}, for edgelm has no definition of this model type; "
        "its graphs are slower than edgelm's own",
        *original.notes,
        *task.notes,
        *notes,
        *unsupported_settings(generation),
    )
    facts = task_facts(
        task,
        hidden_size=original.hidden_size,
        vocab_size=original.vocab_size,
        pad_token_id=original.pad_token_id,
        token_types=written.token_types,
        alone=True,  # nobody knows what such a graph makes of padding
    )
    return Manifest(
        family=family,
        task=task.name,
        architecture=model_type_of(checkpoint),
        programs={},
        cache=written.cache,
        encoder=None if family == "decoder" else facts,
        context_length=length,
        vocab_size=written.vocab_size or original.vocab_size,
        parameters=checkpoint.parameters,
        device=_PROVIDER.name,
        precision=recipe.name,
        recipe=recipe.as_manifest(),
        source=source_entry(source, checkpoint),
        files={},
        generation=generation,
        quality={},
        versions={"edgelm": __version__, **made},
        notes=notes,
        exporter=OPTIMUM,
    )


def _context_length(original: optimum.Original, task: Task, asked: int | None) -> tuple[int, tuple[str, ...]]:
    """The longest text, and what to say about it.

    Raises:
        InvalidOption: longer than the checkpoint says it reads.
    """
    known = original.context_length
    if asked is not None:
        if asked < 1 or (known is not None and asked > known):
            raise InvalidOption(f"context length {asked} is outside 1..{known or 'any'}, which the checkpoint names")
        return asked, ()
    length = min(filter(None, (known or _DEFAULT_LENGTH, task.max_seq_length)))
    if known is not None:
        return length, ()
    return length, (f"the config names no longest text, so {length} was taken; --context-length chooses another",)


def _verify(
    package: Package, programs: ForeignPrograms, origin: Path, scratch: Path, text: EvaluationText
) -> dict[str, Any]:
    """The quality of a package against Optimum's float graphs, and of those against the checkpoint in transformers."""
    names = package.manifest.programs
    candidates = {name: Program(package.program(name), _PROVIDER) for name in names}
    references = candidates
    if package.manifest.precision != "fp32":
        folder = scratch / "float"
        folder.mkdir()
        programs.write(_FLOAT, folder)
        references = {name: Program(folder / f"{name}.onnx", _PROVIDER) for name in names}
    error = against_original(package, optimum.Original.load(origin, package.manifest.task), references, text)
    reference, candidate = (Side(package.manifest, programs) for programs in (references, candidates))
    return {**measure_programs(package, reference, candidate, text), "float_against_original": error}
