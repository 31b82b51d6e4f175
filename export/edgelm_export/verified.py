"""Every form of a fresh package, verified as far as this machine can run it: quality cards and recorded runs for the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelm.errors import OutOfDeviceMemory
from edgelm.manifest import Manifest
from edgelm.package import Package
from edgelm.providers import PROVIDERS, Provider, missing
from edgelm_export.evaluation import EvaluationText
from edgelm_export.float_graph import RESIDENT, WORKSPACE, FloatGraph
from edgelm_export.memory_bound import MemoryBound
from edgelm_export.model import Model
from edgelm_export.quality_page import with_quality
from edgelm_export.verify import loaded_bytes, recorded_run, verify


@dataclass(frozen=True)
class Bench:
    """What packages of a checkpoint are measured with: the model, its float graph, a text, room for it all, and who is told."""

    model: Model
    graph: FloatGraph
    text: EvaluationText
    bound: MemoryBound
    say: Callable[[str], None]


def verified(manifest: Manifest, providers: Iterable[Provider], folder: Path, bench: Bench) -> Manifest:
    """The manifest of a written package, and its pages in `folder`, with what was found of the form for each provider.

    Raises:
        as `verify`.
    """
    for provider in providers:
        device = provider.name
        here = runner(provider)
        if here is None:
            quality = _not_run(provider, f"this machine has no kernels for {provider.activation_dtype} activations")
            bench.say(f"verification of the programs for {device} {quality['skipped']}")
            manifest = with_quality(manifest, quality, folder, device)
            continue
        if here.name != device:
            bench.say(f"note: the programs for {device} are verified with the kernels of {here.name}")
        package = Package(folder, manifest).on((device,))
        try:
            quality = verify(package, bench.model, here, bench.graph, bench.text, bench.say)
        except OutOfDeviceMemory as error:
            quality = _not_run(provider, str(error))
        manifest = with_quality(manifest, quality, folder, device)
        if "skipped" not in quality and bench.bound.has_room(RESIDENT * loaded_bytes(package) + WORKSPACE):
            manifest = manifest.measured(device, recorded_run=recorded_run(package, here, bench.text))
    return manifest


def runner(provider: Provider) -> Provider | None:
    """What runs the programs for a provider on this machine: itself, or else the CPU's kernels where they take its activations."""
    here = PROVIDERS["cpu"] if missing(provider) else provider
    return here.computing(provider.activation_dtype) if provider.activation_dtype in here.takes else None


def _not_run(provider: Provider, why: str) -> dict[str, Any]:
    return {
        "skipped": f"skipped: built, not run here: {why}; where it runs, edgelm verify PACKAGE --device {provider.name} "
        "--against CHECKPOINT --record measures it"
    }
