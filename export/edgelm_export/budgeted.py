"""An export that is told how far it may be from the float graph, or how large it may get, and finds the formats for that itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgelm.errors import InvalidOption, ProviderError, VerificationError
from edgelm.package import Package
from edgelm_export.calibration import calibration_ids, inputs_of, moments_bytes
from edgelm_export.float_graph import PROVIDER, FloatGraph
from edgelm_export.model import Model
from edgelm_export.quantize.budget import Option, Selection, fewest_bytes, least_divergence
from edgelm_export.quantize.recipe import Recipe, recipe_of
from edgelm_export.quantize.sensitivity import Surveyor
from edgelm_export.sizes import read_size

Options = Mapping[str, Sequence[Option]]

# Packages that are written and measured at most before the search is content with the best one.
_TRIES = 5
# What counts as close to the limit, and what the next try aims at: estimates are off by some parts in a hundred.
_CLOSE_KLD, _AIM_KLD = 0.85, 0.94
_CLOSE_SIZE, _SPARE_BYTES = 0.995, 4096


@dataclass(frozen=True)
class MaxKld:
    """The most a package may diverge from the float graph: mean KL divergence in nats, as verification measures it."""

    limit: float

    @property
    def name(self) -> str:
        """What the recipe that keeps it is called."""
        return f"max-kld-{self.limit:g}"

    def select(self, options: Options, aim: float) -> Selection:
        """The formats for an estimated divergence."""
        return fewest_bytes(options, aim)

    def measure(self, package: Package) -> float:
        """What the limit is for.

        Raises:
            ProviderError: it was not measured.
        """
        quality = package.manifest.quality
        if "prefill" not in quality:
            raise ProviderError(
                f"{self.name} is kept by measuring, and that was {quality['skipped']}; give --precision or --recipe"
            )
        return quality["prefill"]["mean_kld"]

    def is_close(self, value: float) -> bool:
        """Whether another try is not worth its time."""
        return value >= _CLOSE_KLD * self.limit

    def corrected(self, aim: float, value: float) -> float:
        """What to aim at after `aim` led to `value`."""
        return aim * _AIM_KLD * self.limit / max(value, self.limit / 100)

    def stricter(self, selection: Selection) -> float:
        """An aim that these formats miss."""
        return _AIM_KLD * selection.divergence


@dataclass(frozen=True)
class TargetSize:
    """The most bytes a package may have, all its files together."""

    limit: float

    @property
    def name(self) -> str:
        """What the recipe that keeps it is called."""
        return f"target-size-{self.limit:.0f}"

    def select(self, options: Options, aim: float) -> Selection:
        """The formats for so many bytes of weights."""
        return least_divergence(options, aim)

    def measure(self, package: Package) -> float:
        """What the limit is for."""
        return package.size

    def is_close(self, value: float) -> bool:
        """Whether another try is not worth its time."""
        return value >= _CLOSE_SIZE * self.limit

    def corrected(self, aim: float, value: float) -> float:
        """What to aim at after `aim` led to `value`: other files take what they take."""
        return aim + self.limit - value - _SPARE_BYTES

    def stricter(self, selection: Selection) -> float:
        """An aim that these formats miss."""
        return selection.nbytes - _SPARE_BYTES


Budget = MaxKld | TargetSize


def read_budget(
    max_kld: float | None, target_size: str | int | None, others: Sequence[str], verify: bool
) -> Budget | None:
    """The budget that the options ask for; None where they ask for none.

    Args:
        others: options that choose formats too, as far as they were given.
        verify: whether the package will be measured.

    Raises:
        InvalidOption: a budget that is no budget, two of them, or one beside another choice of formats.
    """
    if max_kld is not None and target_size is not None:
        raise InvalidOption("--max-kld and --target-size are two budgets; give one")
    budget: Budget
    if max_kld is not None:
        budget = MaxKld(max_kld)
    elif target_size is not None:
        budget = TargetSize(read_size(target_size))
    else:
        return None
    if others:
        raise InvalidOption(f"a budget chooses the formats itself; leave out {', '.join(others)}, or the budget")
    if isinstance(budget, MaxKld) and not verify:
        raise InvalidOption("--max-kld is kept by measuring, which --no-verify forbids; leave out one of them")
    if not 0 < budget.limit < float("inf"):
        raise InvalidOption(
            f"{budget.name}: nothing is that small; --max-kld takes nats, such as 0.02, --target-size bytes"
        )
    return budget


def survey(model: Model, folder: Path, graph: FloatGraph, text: str, known: Recipe) -> tuple[Options, Recipe]:
    """What formats cost the weights of a model, and the recipe `known` that knows its inputs too, for the choice to be put into.

    Raises:
        InvalidOption: the model writes no next token whose distribution could diverge.
        ProviderError: this machine cannot run the float graph.
    """
    if model.family != "decoder":
        raise InvalidOption(
            f"a budget is for decoders, and this is exported as {model.task.name}; give --precision or --recipe"
        )
    lacking = graph.lacking("the search for formats", moments_bytes(model))
    if lacking is not None:
        raise ProviderError(
            f"a budget is kept with the help of the float graph, which needs {lacking}; give --precision or --recipe"
        )
    c = model.config
    inputs = inputs_of(model, folder, graph, text)
    ids = calibration_ids(model, folder, text)
    cache = c.cache_geometry(PROVIDER.activation_dtype)
    options = Surveyor(graph.program("decoder"), PROVIDER, cache, inputs, ids).options()
    return options, replace(known, compensates=True, moments=inputs.moments)


def within_budget(
    budget: Budget, options: Options, known: Recipe, build: Callable[[Recipe], Package], say: Callable[[str], None]
) -> Package:
    """The package that `build` made of the best recipe found, which is the last one built.

    Args:
        options: what formats cost each weight.
        known: a recipe that knows the model's inputs, for the formats to be put into.
        build: writes a package where the last one was, and measures it.
        say: told what came of each try.

    Raises:
        VerificationError: no recipe keeps the budget.
    """
    aim, tried = budget.limit, list[Mapping[str, str]]()
    kept, nearest = list[tuple[float, Recipe]](), (float("inf"), "")
    package, built = None, None
    while len(tried) < _TRIES:
        selection = budget.select(options, aim)
        if selection.forms in tried and not kept:  # they are estimated to keep more than was asked for, and do not
            aim = budget.stricter(selection)
            selection = budget.select(options, aim)
        if selection.forms in tried:
            break
        tried.append(selection.forms)
        built = recipe_of(budget.name, selection.forms, known)
        package = build(built)
        value = budget.measure(package)
        say(f"{budget.name}, try {len(tried)}: {describe(package)}")
        nearest = min(nearest, (value, describe(package)))
        if value <= budget.limit:
            kept.append((value, built))
            if budget.is_close(value):
                break
        aim = budget.corrected(aim, value)
    if package is None or not kept:
        raise VerificationError(
            f"no choice of formats keeps {budget.name}: the closest package has {nearest[1]}; allow as much, or give --precision"
        )
    _, best = max(kept, key=lambda entry: entry[0])  # what is allowed is best used up
    return package if best is built else build(best)


def describe(package: Package) -> str:
    """Its size, and its divergence where that was measured."""
    kld = package.manifest.quality.get("prefill", {}).get("mean_kld")
    return f"{package.size / 1e6:,.2f} MB" + ("" if kld is None else f" and a mean KL divergence of {kld:.4g}")
