"""The choice of formats under a limit, against all choices there are, and what an export makes of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgelm
from edgelm.errors import InvalidOption, ProviderError, VerificationError
from edgelm.package import Package
from edgelm_export import budgeted, float_graph
from edgelm_export.budgeted import MaxKld, TargetSize, read_budget
from edgelm_export.quantize.budget import Option, Selection, fewest_bytes, least_divergence
from tests.architectures.encoder_goldens import golden_checkpoint

LLAMA = Path(__file__).parents[1] / "golden" / "llama"


def random_options(seed: int, weights: int = 5) -> dict[str, list[Option]]:
    """Formats whose divergence falls as their bytes rise, by no rule; one of them is worse than another in both."""
    random = np.random.default_rng(seed)
    options: dict[str, list[Option]] = {}
    for i in range(weights):
        sizes, divergences = np.sort(random.integers(10, 100, 4)), np.sort(random.exponential(1, 4))[::-1]
        some = [
            Option(f"f{j}", int(size), float(error))
            for j, (size, error) in enumerate(zip(sizes, divergences, strict=True))
        ]
        options[f"w{i}"] = [*some, Option("bad", int(sizes[-1]) + 1, float(divergences[0]))]
    return options


def all_selections(options: dict[str, list[Option]]) -> list[tuple[int, float]]:
    return [
        (sum(option.nbytes for option in chosen), sum(option.divergence for option in chosen))
        for chosen in itertools.product(*options.values())
    ]


@pytest.mark.parametrize("seed", range(10))
def test_no_other_choice_is_as_small_and_closer(seed: int) -> None:
    options = random_options(seed)
    everything = all_selections(options)
    for limit in np.linspace(0.1, 8, 20):
        found = fewest_bytes(options, limit)
        assert not any(size <= found.nbytes and error < found.divergence - 1e-12 for size, error in everything)
        assert "bad" not in found.forms.values()
        if found.divergence > limit:  # nothing keeps it, so this is the closest
            assert found.divergence == pytest.approx(min(error for _, error in everything))


@pytest.mark.parametrize("seed", range(10))
def test_a_number_of_bytes_is_kept_and_nearly_used_up(seed: int) -> None:
    options = random_options(seed, weights=40)
    largest = max(max(option.nbytes for option in some) for some in options.values())
    smallest = sum(some[0].nbytes for some in options.values())
    for limit in np.linspace(smallest, smallest * 2, 10):
        found = least_divergence(options, limit)
        assert found.nbytes <= limit
        rest = sum(min(option.divergence for option in some) for some in options.values())
        assert found.divergence == pytest.approx(rest) or found.nbytes > limit - 2 * largest


def test_more_room_never_gives_more_divergence() -> None:
    options = random_options(3, weights=20)
    found = [least_divergence(options, limit).divergence for limit in range(200, 2000, 50)]
    assert found == sorted(found, reverse=True)


def test_what_nothing_keeps_gives_the_nearest_choice() -> None:
    options = {"w": [Option("small", 10, 2.0), Option("large", 20, 1.0)]}
    assert fewest_bytes(options, 0.5) == Selection({"w": "large"}, 20, 1.0)
    assert least_divergence(options, 5) == Selection({"w": "small"}, 10, 2.0)


@pytest.mark.parametrize(
    ("max_kld", "target_size", "others", "verify", "message"),
    [
        (0.1, "1MB", [], True, "are two budgets; give one"),
        (0.1, None, ["--precision"], True, "chooses the formats itself; leave out --precision"),
        (None, "1MB", ["--recipe", "--block-size"], True, "leave out --recipe, --block-size"),
        (0.1, None, [], False, "kept by measuring, which --no-verify forbids"),
        (0.0, None, [], True, "max-kld-0: nothing is that small"),
        (float("nan"), None, [], True, "max-kld-nan: nothing is that small"),
        (None, "0MB", [], True, "target-size-0: nothing is that small"),
    ],
)
def test_budgets_that_are_none_are_errors(
    max_kld: float | None, target_size: str | None, others: list[str], verify: bool, message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        read_budget(max_kld, target_size, others, verify=verify)


def test_no_budget_is_asked_for_by_saying_nothing() -> None:
    assert read_budget(None, None, ["--precision"], verify=False) is None
    assert read_budget(0.1, None, [], verify=True) == MaxKld(0.1)
    assert read_budget(None, "1KB", [], verify=False) == TargetSize(1000)


def files(package: Package) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in package.path.iterdir()}


def test_a_divergence_is_kept_and_its_recipe_repeats_the_bytes(tmp_path: Path) -> None:
    recipe = tmp_path / "found.toml"
    package = edgelm.export(LLAMA, tmp_path / "budget", max_kld=0.005, write_recipe=recipe)
    m = package.manifest
    assert 0 < m.quality["prefill"]["mean_kld"] <= 0.005
    assert m.precision == "max-kld-0.005"
    assert m.recipe["calibrated"]
    again = edgelm.export(LLAMA, tmp_path / "again", recipe=recipe)
    assert files(package) == files(again)


def test_a_size_is_kept(tmp_path: Path) -> None:
    whole = edgelm.export(LLAMA, tmp_path / "whole", precision="int8", verify=False)
    package = edgelm.export(LLAMA, tmp_path / "budget", target_size=whole.size - 2000, verify=False)
    assert 0.6 * whole.size < package.size <= whole.size - 2000


def test_a_missed_budget_says_what_comes_closest_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        VerificationError, match=r"no choice of formats keeps target-size-20000: the closest package has 0.\d\d MB"
    ):
        edgelm.export(LLAMA, tmp_path / "budget", target_size=20000)
    assert not list(tmp_path.iterdir())


class Built:
    """A package of one weight whose divergence is known."""

    size = 1

    def __init__(self, kld: float) -> None:
        self.manifest = type("Manifest", (), {"quality": {"prefill": {"mean_kld": kld}}})


def tries(limit: float, options: list[Option], klds: dict[str, float]) -> list[str]:
    """The formats of the packages that were built for a budget, one after another; `klds` is what they turn out to diverge by."""
    built: list[str] = []

    def build(recipe: budgeted.Recipe) -> Package:
        built.append(dict(recipe.rules)["w"])
        return Built(klds[built[-1]])  # pyright: ignore[reportReturnType]

    found = budgeted.within_budget(MaxKld(limit), {"w": options}, budgeted.Recipe("", ()), build, lambda _: None)
    assert found.manifest.quality["prefill"]["mean_kld"] <= limit
    return built


def test_tries_go_on_until_the_limit_is_nearly_used_up() -> None:
    """Estimates are four times too low at first: the first package misses, the second keeps the budget."""
    options = [Option(f"int{bits}", bits, 2.0**-bits) for bits in range(30)]
    built = tries(0.02, options, {option.form: 4 * option.divergence for option in options})
    assert built[0] == "int6"
    assert built[-1] == "int8"


def test_a_choice_that_misses_by_little_is_followed_by_a_larger_one() -> None:
    """Though estimates say, as corrected by what was measured, that the first one keeps the budget."""
    options = [Option("small", 10, 0.01), Option("large", 20, 0.001)]
    assert tries(0.3, options, {"small": 0.3004, "large": 0.05}) == ["small", "large"]


def test_bytes_that_a_step_waits_for_count_as_much_as_those_of_the_file() -> None:
    options = {"w": [Option("slow", 10, 0.1, read=40), Option("fast", 20, 0.1), Option("small", 5, 0.5)]}
    assert fewest_bytes(options, 0.2).forms == {"w": "fast"}
    assert fewest_bytes(options, 0.2).nbytes == 20


def test_encoders_have_no_budget(tmp_path: Path) -> None:
    checkpoint = golden_checkpoint("bert", "BertModel", tmp_path / "source")
    with pytest.raises(InvalidOption, match="a budget is for decoders, and this is exported as"):
        edgelm.export(checkpoint, tmp_path / "out", max_kld=0.1)
    assert not (tmp_path / "out").exists()


def test_too_little_memory_for_the_search_is_said_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_graph, "available_memory", lambda: 1000)
    with pytest.raises(ProviderError, match="a budget is kept with the help of the float graph, which needs"):
        edgelm.export(LLAMA, tmp_path / "out", max_kld=0.1)


def test_a_package_that_could_not_be_measured_keeps_no_divergence(tmp_path: Path) -> None:
    package = edgelm.export(LLAMA, tmp_path / "out", precision="int8", verify=False)
    skipped = replace(package, manifest=replace(package.manifest, quality={"skipped": "skipped: no room"}))
    with pytest.raises(ProviderError, match="max-kld-0.1 is kept by measuring, and that was skipped: no room"):
        MaxKld(0.1).measure(skipped)
