"""The data flow of an export as one function: source -> checkpoint -> config -> weights -> programs -> package -> verified."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgelm.errors import InvalidOption
from edgelm.package import Package
from edgelm.providers import PROVIDERS, Provider
from edgelm_export.assemble import plan
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.float_graph import FloatGraph
from edgelm_export.hand_over import hand_over, is_handed_over
from edgelm_export.manifest import describe_export
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
    checkpoint = open_checkpoint(found.path)
    if is_handed_over(checkpoint):
        return hand_over(checkpoint, found, target, options, say)
    model = understand(checkpoint, options.context_length, options.task, options.pooling)
    for note in model.notes:
        say(f"note: {note}")
    check_tied_head(model)
    recipe = choose_recipe(options, model)
    planned = plan(model, recipe, provider)
    recipe.check_used()
    check_space(target, planned.nbytes)
    manifest = describe_export(model, recipe, provider, found)
    with package_folder(target, force=options.force) as folder, FloatGraph(model, folder.parent, say) as graph:
        write_texts(model.checkpoint, folder)
        recipe = calibrated(recipe, model, folder, graph)
        probes = write_programs(model, recipe, provider, folder)
        manifest = replace(manifest, files=digests(folder), probes=probes)
        manifest.save(folder)
        if options.verify:
            quality = verify(Package.open(folder), model, provider, graph, say)
            replace(manifest, quality=quality).save(folder)
    return Package.open(target)


def choose_recipe(options: ExportOptions, model: Model) -> Recipe:
    """The recipe of a file, or the one a precision stands for."""
    layers = model.config.num_hidden_layers
    if options.recipe is not None:
        return recipe_from_file(Path(options.recipe), layers, options.block_size, model.family)
    precision = options.precision or default_precision(model)
    return preset(precision, layers, options.block_size, model.family)


def default_precision(model: Model) -> str:
    """What an export does unasked: it keeps the integers of a checkpoint that is stored as integers."""
    kept = sum(math.prod(tensor.shape) for tensor in model.checkpoint.tensors.values() if tensor.grid is not None)
    return "keep-fast" if 2 * kept > model.checkpoint.parameters else DEFAULT_PRECISION[model.family]


def _provider(device: str) -> Provider:
    if device not in PROVIDERS:
        raise InvalidOption(f"device {device!r} is not known (known: {', '.join(PROVIDERS)})")
    return PROVIDERS[device]
