"""The data flow of an export as one function: source -> checkpoint -> config -> weights -> programs -> package -> verified."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgelm.errors import InvalidOption
from edgelm.package import Package
from edgelm.providers import PROVIDERS, Provider
from edgelm_export.adapters import check_base, merged_entries, open_adapters, write_adapters
from edgelm_export.assemble import plan
from edgelm_export.budgeted import Budget, read_budget, survey, within_budget
from edgelm_export.calibration import calibrated, calibration_ids
from edgelm_export.checkpoint import open_checkpoint
from edgelm_export.cost import Cost
from edgelm_export.evaluation import choose_text
from edgelm_export.float_graph import FloatGraph
from edgelm_export.hand_over import hand_over, is_handed_over
from edgelm_export.input_rounding import formats_without
from edgelm_export.kv_cache import with_cache_scales, with_kv_cache
from edgelm_export.manifest import describe_export, form_entry, source_entry, undigested
from edgelm_export.memory_bound import MemoryBound
from edgelm_export.model import Model, check_tied_head, understand
from edgelm_export.quantize.recipe import DEFAULT_PRECISION, Recipe, preset
from edgelm_export.quantize.recipe_file import recipe_from_file, write_recipe
from edgelm_export.sizes import read_size
from edgelm_export.sources import resolve_source
from edgelm_export.traffic import weight_bytes_per_step
from edgelm_export.verified import Bench, verified
from edgelm_export.workers import Digests
from edgelm_export.write import (
    check_space,
    check_target,
    digests,
    package_folder,
    write_probes,
    write_programs,
    write_texts,
)


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
    eval_text: str | Path | None = None
    kv_cache: str | None = None
    calibrate: bool = False
    calibration_text: str | Path | None = None
    max_kld: float | None = None
    target_size: str | int | None = None
    write_recipe: str | Path | None = None
    adapter: str | Path | Sequence[str | Path] = ()
    keep_adapter: Mapping[str, str | Path] | Sequence[str] = ()
    max_ram: str | int | None = None
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
    source: str | Path,
    out: str | Path,
    options: ExportOptions,
    say: Callable[[str], None] = lambda _: None,
    cost: Cost | None = None,
) -> Package:
    """Exports a checkpoint into a package at `out`; nothing is left behind when it fails.

    Args:
        source: as `resolve_source` takes it.
        out: the folder to make.
        options: all else that was asked for.
        say: told what should be known meanwhile.
        cost: notes where time goes.

    Raises:
        CheckpointError: the source cannot be exported; its subclasses say why.
        PackageError: `out` cannot be written.
        VerificationError: the package disagrees with itself or yields NaN.
    """
    with MemoryBound(None if options.max_ram is None else read_size(options.max_ram)) as bound:
        package = _export(str(source), Path(out), options, say, cost or Cost(), bound)
    if options.write_recipe is not None:
        write_recipe(Path(options.write_recipe), package.manifest.recipe)
    return package


def _export(
    source: str, target: Path, options: ExportOptions, say: Callable[[str], None], cost: Cost, bound: MemoryBound
) -> Package:
    providers, budget = choose_providers(options.device, options.activations), _budget(options)
    _check_together(options, providers)
    text, known = choose_text(options.eval_text), choose_text(options.calibration_text, "calibration").text
    check_target(target, force=options.force)
    with cost.of("finding the source"):
        found = resolve_source(source, revision=options.revision, offline=options.offline)
        checkpoint = open_checkpoint(found.path)
    adapters = open_adapters(options.adapter, options.keep_adapter)
    if is_handed_over(checkpoint):
        return hand_over(checkpoint, found, target, options, say)
    model = understand(checkpoint, options.context_length, options.task, options.pooling)
    model = replace(model, adapters=adapters)
    check_base(model, found)
    for note in model.notes:
        say(f"note: {note}")
    check_tied_head(model)
    recipe = with_kv_cache(choose_recipe(options, model, providers), options.kv_cache, model, providers)
    planned = plan(model, recipe, *providers)
    recipe.check_used()
    check_space(target, planned.nbytes)
    bound.check(planned.largest_piece)
    with cost.of("digests"):
        manifest = describe_export(model, recipe, providers[0])
    with (
        package_folder(target, force=options.force) as folder,
        FloatGraph(model, folder.parent, say, bound) as graph,
        Digests(undigested(found, model.checkpoint)) as source_digests,
    ):
        write_texts(model.checkpoint, folder)

        def write(recipe: Recipe) -> Package:
            plan(model, recipe, *providers)
            recipe = recipe.used()
            data_digests: dict[str, str] = {}
            with cost.of("writing"):
                assembly = write_programs(model, recipe, providers, folder, sha256s=data_digests)
            own, *others = assembly.forms
            parts = {
                "probes": write_probes(own.programs.values(), own.provider, folder),
                "forms": {form.provider.name: form_entry(model, form, folder) for form in others},
                "adapters": write_adapters(adapters, assembly.adapted, own.provider, folder),
                "weight_bytes_per_step": weight_bytes_per_step(own.programs),
            }
            written = replace(manifest, precision=recipe.name, recipe=recipe.as_manifest(), **parts)
            del recipe  # what it knows of the inputs takes memory that verification needs
            with cost.of("digests"):
                source = source_entry(found, model.checkpoint, source_digests.result()) | merged_entries(adapters)
                written = replace(written, source=source, files=digests(folder, known=data_digests))
            if options.verify:
                with cost.of("verifying"):
                    written = verified(written, providers, folder, Bench(model, graph, text, bound, say))
            written.save(folder)
            return Package.open(folder)

        if budget is None:
            with cost.of("calibrating"):
                recipe = with_cache_scales(recipe, model, folder, graph, known)
                ready = [calibrated(recipe, model, folder, graph, known, say)]
            package = write(ready.pop())  # kept by `write` alone, which needs the memory
            if options.recipe is None and options.verify:
                with cost.of("trying inputs"):
                    changed = formats_without(
                        package, model, providers[0], recipe, lambda: calibration_ids(model, folder, known)
                    )
                if changed:
                    say(f"inputs of {', '.join(changed)} are not rounded to 8 bits, which cost too much")
                    write(calibrated(recipe.with_forms(changed), model, folder, graph, known, say))
        else:
            with cost.of("searching formats"):
                recipe = with_cache_scales(recipe, model, folder, graph, known)
                found_formats = survey(model, folder, graph, known, recipe)
            within_budget(budget, *found_formats, write, say)
    return Package.open(target)


def _check_together(options: ExportOptions, providers: Sequence[Provider]) -> None:
    """Refuses what packages with programs for the memory of a device cannot have.

    Raises:
        InvalidOption: adapters kept apart, or a search for formats, whose figures are of the CPU's kernels.
    """
    asked = {
        "--keep-adapter": bool(options.keep_adapter),
        "--max-kld": options.max_kld is not None,
        "--target-size": options.target_size is not None,
    }
    given = [name for name, there in asked.items() if there]
    devices = [provider.name for provider in providers if provider.device_memory]
    if given and devices:
        raise InvalidOption(
            f"{' and '.join(given)}: not for packages that run on {' and '.join(devices)}; export with --device cpu, merge "
            "adapters with --adapter, or name a --precision"
        )


def _budget(options: ExportOptions) -> Budget | None:
    others = {"--precision": options.precision, "--recipe": options.recipe, "--block-size": options.block_size}
    given = [name for name, value in others.items() if value is not None]
    return read_budget(options.max_kld, options.target_size, given, verify=options.verify)


def choose_recipe(options: ExportOptions, model: Model, providers: Sequence[Provider]) -> Recipe:
    """The recipe of a file, or the one a precision stands for, in formats that pay on all providers.

    Raises:
        InvalidOption: calibration of what has nothing to calibrate, or of a recipe that says itself whether it is; integers of the
            checkpoint that are to be kept, and a provider without kernels for all of them.
    """
    keeps = all(provider.keeps_integers for provider in providers)
    recipe = _recipe_of_file(options, model) if options.recipe is not None else _preset(options, model, keeps=keeps)
    if options.recipe is None and not all(provider.block_sums for provider in providers):
        recipe = recipe.without_block_sums()
    if not keeps and recipe.keeps:
        names = [provider.name for provider in providers if not provider.keeps_integers]
        raise InvalidOption(
            f"recipe {recipe.name}: {' and '.join(names)} lacks kernels for a checkpoint's own integers; "
            "name another --precision, or export with --device cpu"
        )
    return recipe


def _recipe_of_file(options: ExportOptions, model: Model) -> Recipe:
    if options.calibrate:
        raise InvalidOption(f"--calibrate is for presets; write 'calibrated = true' into {options.recipe}")
    layers = model.config.num_hidden_layers
    return recipe_from_file(Path(str(options.recipe)), layers, options.block_size, model.family)


def _preset(options: ExportOptions, model: Model, *, keeps: bool) -> Recipe:
    unasked = default_precision(model) if keeps else DEFAULT_PRECISION[model.family]
    precision, layers = options.precision or unasked, model.config.num_hidden_layers
    recipe = replace(preset(precision, layers, options.block_size, model.family), compensates=options.calibrate)
    if options.calibrate and not recipe.wants_moments:
        raise InvalidOption(f"--calibrate chooses the codes of blocks of integers, and {precision} has none: take int4")
    return recipe


def default_precision(model: Model) -> str:
    """What an export does unasked: it keeps the integers of a checkpoint that is stored as integers."""
    kept = sum(math.prod(tensor.shape) for tensor in model.checkpoint.tensors.values() if tensor.grid is not None)
    return "keep-fast" if 2 * kept > model.checkpoint.parameters else DEFAULT_PRECISION[model.family]


def choose_providers(device: str, activations: str | None) -> list[Provider]:
    """The providers a package is for.

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
