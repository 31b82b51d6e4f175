"""Whether a package is what was exported, and runs here as it did there: a folder in, one check after another out.

A check that fails says what to do next. Checks that need what failed are left out: nothing of a changed package is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.errors import EdgeLMError
from edgelm.known_answers import Answer, package_answers, wrong_answer
from edgelm.loading import computing
from edgelm.package import Package
from edgelm.program_ports import differences
from edgelm.providers import Provider, find_provider
from edgelm.recorded_run import NEAR_TIE, repeat
from edgelm.session import Program

_AGAIN = "export the package again or fetch a clean copy"

# What may be measured otherwise elsewhere: how much worse a figure may be, as a share of the recorded one and beyond that.
_ALLOWED: Mapping[str, tuple[float, float]] = {
    "mean_kld": (0.1, 1e-4),
    "character_error_rate": (0.1, 0.01),
    "top1_agreement": (0, -0.02),
    "top5_agreement": (0, -0.02),
    "label_agreement": (0, -0.02),
    "mean_cosine": (0, -0.002),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def verify_package(
    path: Path, device: str = "auto", measure: Callable[[Package, Provider], Mapping[str, Any]] | None = None
) -> Iterator[Check]:
    """Looks at one thing after the other.

    Args:
        path: the package.
        device: the provider to run on; "auto" takes the best that package and machine both can.
        measure: gives the quality card of the package anew, to be compared with the recorded one.
    """
    try:
        package = Package.open(path)
        yield Check(
            "manifest", True, f"{package.manifest.family} of format {package.manifest.format_version}, as written"
        )
        package.verify_digests()
        yield Check("digests", True, f"{len(package.manifest.files)} files, {package.size / 1e6:,.1f} MB, as exported")
        provider = find_provider(device, package_devices=package.manifest.devices)
        package = package.on(provider.runs)
        provider = computing(package, provider)
    except EdgeLMError as error:
        yield Check(_FAILS.get(type(error).__name__, "provider"), False, str(error))
        return
    if "skipped" in package.manifest.quality:
        yield Check("quality card", True, f"none, {package.manifest.quality['skipped']}")
    programs: dict[str, Program] = {}
    for name in package.manifest.programs:
        yield from _opened(package, provider, name, programs)
    yield from _answered(package, provider)
    if len(programs) == len(package.manifest.programs):
        yield from _run_again(package, programs)
        programs.clear()  # their memory is needed for what comes now
        if measure is not None:
            yield from _measured(package, provider, measure)


_FAILS = {"DigestError": "digests", "ManifestError": "manifest", "VersionError": "manifest"}


def _opened(package: Package, provider: Provider, name: str, programs: dict[str, Program]) -> Iterator[Check]:
    try:
        programs[name] = Program(package.program(name), provider)
    except EdgeLMError as error:
        yield Check(f"operators of {name}", False, f"{error}; {provider.install} may help")
        return
    yield Check(f"operators of {name}", True, f"all are in this ONNX Runtime, for {provider.name}")
    wrong = differences(package.manifest, name, programs[name])
    said = "; ".join(wrong) + f"; {_AGAIN}" if wrong else "inputs and outputs are those of the manifest"
    yield Check(f"signature of {name}", not wrong, said)


def _answered(package: Package, provider: Provider) -> Iterator[Check]:
    """A check for each operator, its worst setting named."""
    try:
        answers = package_answers(package, provider)
    except EdgeLMError as error:
        yield Check("known answers", False, str(error))
        return
    for operator in dict.fromkeys(answer.operator for answer in answers):
        of_it = [answer for answer in answers if answer.operator == operator]
        yield operator_check(of_it, provider, "the package")
    if not answers:
        yield Check("known answers", True, "none: the package brings no probes")


def operator_check(answers: list[Answer], provider: Provider, whose: str) -> Check:
    """What came of the settings of one operator."""
    worst = max(answers, key=lambda answer: (not answer.right, answer.error / answer.tolerance))
    if not worst.right:
        return Check(worst.operator, False, wrong_answer(worst, provider, whose))
    settings = f"{len(answers)} settings, " if len(answers) > 1 else ""
    return Check(worst.operator, True, f"{settings}off by {worst.error:.1e}, {worst.tolerance:g} is allowed")


def _run_again(package: Package, programs: Mapping[str, Program]) -> Iterator[Check]:
    if not package.manifest.recorded_run:
        yield Check("recorded run", True, f"none: the package was exported without one for {package.manifest.device}")
        return
    try:
        found = repeat(package.manifest, programs)
    except Exception as error:  # ONNX Runtime raises bare types
        yield Check("recorded run", False, f"it fails ({str(error).splitlines()[0][:200]}); {_AGAIN}")
        return
    said = str(found)
    if not found.right:
        said += (
            f", the others differ by up to {found.worst:.2g} of the largest, {NEAR_TIE:g} is allowed for other processors; "
            "an operator may be wrong here: edgelm doctor, or edgelm verify --against the checkpoint"
        )
    yield Check("recorded run", found.right, said)


def _measured(
    package: Package, provider: Provider, measure: Callable[[Package, Provider], Mapping[str, Any]]
) -> Iterator[Check]:
    try:
        quality = measure(package, provider)
    except EdgeLMError as error:
        yield Check("quality", False, str(error))
        return
    if "skipped" in quality:
        yield Check("quality", False, str(quality["skipped"]))
    yield from compared(package.manifest.quality, quality)


def compared(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Check]:
    """A check for each part of a quality card: no figure is worse than the recorded one by more than machines differ."""
    for part in ("prefill", "decode", "outputs"):
        if part not in found:
            continue
        was, now = recorded.get(part, {}), found[part]
        keys = [key for key in _ALLOWED if key in now]
        said = [f"{key.replace('_', ' ')} {now[key]:.4g}{_recorded(was.get(key))}" for key in keys]
        worse = [key for key in keys if key in was and _is_worse(key, was[key], now[key])]
        advice = f"; {', '.join(worse)} got worse: is it the same checkpoint? If so, {_AGAIN}" if worse else ""
        yield Check(f"quality of {part}", not worse, ", ".join(said) + advice)


def _recorded(was: float | None) -> str:
    return "" if was is None else f" (recorded {was:.4g})"


def _is_worse(key: str, was: float, now: float) -> bool:
    share, beyond = _ALLOWED[key]
    return now < was + beyond if beyond < 0 else now > was * (1 + share) + beyond
