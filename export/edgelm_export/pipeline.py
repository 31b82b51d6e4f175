"""The data flow of an export as one function: source -> checkpoint -> config -> weights -> programs -> package -> verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgelm import __version__
from edgelm.errors import CheckpointError, InvalidOption
from edgelm.generation_config import GenerationConfig, unsupported_keys
from edgelm.package import MANIFEST, Manifest, Package
from edgelm.progress import progress
from edgelm.providers import PROVIDERS, Provider
from edgelm.signature import CacheGeometry
from edgelm_export.architectures import REGISTRY
from edgelm_export.assemble import Model, assemble, plan
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.nearest import unknown_architecture
from edgelm_export.quantize.recipe import Recipe, preset, recipe_from_file
from edgelm_export.read_config import model_type_of, read_config
from edgelm_export.sources import Source, resolve_source
from edgelm_export.verify import verify
from edgelm_export.write import DataFile, check_space, check_target, digests, package_folder, sha256, write_graph


@dataclass(frozen=True)
class ExportOptions:
    """What `edgelm export` may be told; see its help for each."""

    precision: str = "int4"
    block_size: int | None = None
    context_length: int | None = None
    device: str = "cpu"
    revision: str | None = None
    offline: bool = False
    recipe: str | Path | None = None
    verify: bool = True
    force: bool = False


def export_options(values: Mapping[str, Any]) -> ExportOptions:
    """Options by name.

    Raises:
        InvalidOption: a name that is not an option.
    """
    known = [field.name for field in fields(ExportOptions)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InvalidOption(f"export has no option {', '.join(unknown)} (known: {', '.join(known)})")
    return ExportOptions(**values)


def export(
    source: str | Path, out: str | Path, options: ExportOptions, say: Callable[[str], None] = lambda _: None
) -> Package:
    """Exports a checkpoint into a package at `out`; nothing is left behind when it fails.

    Raises:
        CheckpointError: the source cannot be exported; its subclasses say why.
        PackageError: `out` cannot be written.
        VerificationError: the package disagrees with itself or yields NaN.
    """
    target = Path(out)
    provider = _provider(options.device)
    check_target(target, force=options.force)
    found = resolve_source(str(source), revision=options.revision, offline=options.offline)
    model = understand(open_checkpoint(found.path), options.context_length)
    for note in model.config.notes:
        say(f"note: {note}")
    recipe = choose_recipe(options, model)
    planned = plan(model, recipe, provider)
    recipe.check_used()
    check_space(target, planned.nbytes)
    with package_folder(target, force=options.force) as folder:
        write_texts(model.checkpoint, folder)
        write_programs(model, recipe, provider, folder)
        manifest = _manifest(model, recipe, provider, options, found)
        manifest = replace(manifest, files=digests(folder))
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        if options.verify:
            manifest = replace(manifest, quality=verify(Package.open(folder), model, provider, say))
            (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Package.open(target)


def understand(checkpoint: Checkpoint, context_length: int | None = None) -> Model:
    """Config and architecture of a checkpoint, from headers alone.

    Raises:
        UnsupportedArchitecture: nobody defines it; the message names the nearest type and what differs.
        UnsupportedConfig: the type is known, its config asks for something that is not.
    """
    model_type = model_type_of(checkpoint)
    if model_type not in REGISTRY:
        raise unknown_architecture(checkpoint)
    architecture = REGISTRY[model_type]
    facts = architecture.model_types[model_type]
    return Model(checkpoint, read_config(checkpoint, facts, context_length), architecture)


def choose_recipe(options: ExportOptions, model: Model) -> Recipe:
    """The recipe of a file, or the one a precision stands for."""
    if options.recipe is not None:
        return recipe_from_file(Path(options.recipe), model.config.num_hidden_layers, options.block_size)
    return preset(options.precision, model.config.num_hidden_layers, options.block_size)


def write_programs(model: Model, recipe: Recipe, provider: Provider, folder: Path) -> None:
    """Writes every program's graph and data file into `folder`."""
    total = plan(model, recipe, provider).nbytes
    files: dict[str, DataFile] = {}
    with progress(total, f"Writing {recipe.name}", "B") as bar:
        try:

            def store_for(name: str) -> DataFile:
                return files.setdefault(name, DataFile(folder / f"{name}.onnx.data", bar.advance))

            programs = assemble(model, recipe, provider, store_for)
        finally:
            for file in files.values():
                file.close()
    for name, program in programs.items():
        write_graph(program, folder / f"{name}.onnx")


def write_texts(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the tokenizer, and the configs of a source that has them as files.

    Raises:
        CheckpointError: the source has no tokenizer that edgelm reads.
    """
    texts = checkpoint.tokenizer_files()
    if "tokenizer.json" not in texts:
        raise CheckpointError(
            f"{checkpoint.files[0].parent} has no tokenizer.json; save the tokenizer in its fast form into that folder "
            "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)) and export again"
        )
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    for file in checkpoint.files:
        if file.name in ("config.json", "generation_config.json"):
            (folder / file.name).write_bytes(file.read_bytes())


def _provider(device: str) -> Provider:
    if device not in PROVIDERS:
        raise InvalidOption(f"device {device!r} is not known (known: {', '.join(PROVIDERS)})")
    return PROVIDERS[device]


def _manifest(model: Model, recipe: Recipe, provider: Provider, options: ExportOptions, source: Source) -> Manifest:
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
        cache=CacheGeometry(c.num_hidden_layers, c.num_key_value_heads, c.head_dim, provider.activation_dtype),
        context_length=c.context_length,
        vocab_size=c.vocab_size,
        parameters=count_parameters(model),
        device=provider.name,
        precision=options.precision if options.recipe is None else "recipe",
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


def count_parameters(model: Model) -> int:
    """Values in the checkpoint's tensors."""
    total = 0
    for tensor in model.checkpoint.tensors.values():
        count = 1
        for size in tensor.shape:
            count *= size
        total += count
    return total


def _source_entry(source: Source, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "id": source.id,
        "revision": source.revision,
        "format": checkpoint.format,
        "files": {file.name: sha256(file) for file in checkpoint.files},
    }
