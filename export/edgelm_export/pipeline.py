"""The data flow of an export as one function: source -> checkpoint -> config -> weights -> programs -> package -> verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgelm.errors import InvalidOption
from edgelm.package import Package
from edgelm.providers import PROVIDERS, Provider, missing
from edgelm_export.assemble import plan
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.float_graph import FloatGraph
from edgelm_export.hand_over import hand_over, is_handed_over
from edgelm_export.manifest import describe_export, with_forms
from edgelm_export.model import Model, check_tied_head, understand
from edgelm_export.quantize.recipe import DEFAULT_PRECISION, Recipe, preset, recipe_from_file
from edgelm_export.sources import resolve_source
from edgelm_export.verify import calibrated, verify
from edgelm_export.write import check_space, check_target, digests, package_folder, write_programs, write_texts


@dataclass(frozen=True)
class ExportOptions:
    """What `edgelm export` may be told; see its help for each."""

    precision: str | None = None
    block_size: int | None = None
    context_length: int | None = None
    task: str | None = None
    pooling: str | None = None
    device: str = "cpu"
    activations: str | None = None
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
    providers = choose_providers(options.device, options.activations)
    check_target(target, force=options.force)
    found = resolve_source(str(source), revision=options.revision, offline=options.offline)
    checkpoint = open_checkpoint(found.path)
    if is_handed_over(checkpoint):
        return hand_over(checkpoint, found, target, options, say)
    model = understand(checkpoint, options.context_length, options.task, options.pooling)
    for note in model.notes:
        say(f"note: {note}")
    check_tied_head(model)
    recipe = choose_recipe(options, model, providers)
    planned = plan(model, recipe, *providers)
    recipe.check_used()
    check_space(target, planned.nbytes)
    manifest = describe_export(model, recipe, providers[0], found)
    with package_folder(target, force=options.force) as folder, FloatGraph(model, folder.parent, say) as graph:
        write_texts(model.checkpoint, folder)
        recipe = calibrated(recipe, model, folder, graph)
        manifest = with_forms(manifest, model, providers, write_programs(model, recipe, providers, folder))
        manifest = replace(manifest, files=digests(folder))
        manifest.save(folder)
        if options.verify:
            quality = _verified(Package.open(folder), model, providers[0], graph, say)
            replace(manifest, quality=quality).save(folder)
    return Package.open(target)


def _verified(
    package: Package, model: Model, provider: Provider, graph: FloatGraph, say: Callable[[str], None]
) -> dict[str, Any]:
    """Quality figures, on a machine without the device by the CPU's kernels, where these know the activations."""
    lacking = missing(provider)
    if not lacking:
        return verify(package, model, provider, graph, say)
    if provider.activation_dtype in PROVIDERS["cpu"].takes:
        say(f"verified by the CPU's kernels, for {provider.name} cannot be used here")
        return {**verify(package, model, PROVIDERS["cpu"], graph, say), "device": "cpu"}
    reason = f"skipped: {'; '.join(lacking)}"
    say(f"verification {reason}")
    return {"skipped": reason}


def choose_recipe(options: ExportOptions, model: Model, providers: Sequence[Provider]) -> Recipe:
    """The recipe of a file, or the one a precision stands for, in formats that pay on all providers."""
    layers = model.config.num_hidden_layers
    if options.recipe is not None:
        return recipe_from_file(Path(options.recipe), layers, options.block_size, model.family)
    recipe = preset(options.precision or DEFAULT_PRECISION[model.family], layers, options.block_size, model.family)
    return recipe if all(provider.block_sums for provider in providers) else recipe.without_block_sums()


def choose_providers(device: str, activations: str | None) -> list[Provider]:
    """The providers a package is for; the first of several is the one its quality is measured on.

    Raises:
        InvalidOption: an unknown device, the same one twice, or activations that none of them has.
    """
    names = device.split(",")
    unknown = [name for name in names if name not in PROVIDERS]
    if unknown or len(set(names)) < len(names):
        raise InvalidOption(
            f"device {device!r} is not known (known: {', '.join(PROVIDERS)}, or several with a comma between)"
        )
    providers = [PROVIDERS[name] for name in names]
    if activations is None:
        return providers
    free = [provider for provider in providers if len(provider.activation_dtypes) > 1] or providers[:1]
    return [provider.with_activations(activations) if provider in free else provider for provider in providers]
