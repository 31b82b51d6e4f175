"""Runs the probes of a package: a small graph that says how far each operator is from a known answer, on the ONNX Runtime at hand.

What was found right is remembered in the user's cache folder, for this build of ONNX Runtime on processors with these instructions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgelm import home
from edgelm.errors import ManifestError, ProviderError
from edgelm.machine import cpu_features
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm.replacing import replacing
from edgelm.session import Program

NOTHING = "nothing"  # float32 []: the only input, 0


@dataclass(frozen=True)
class Answer:
    """How far an operator in one setting is from the known answer, as a share of its largest value, and how far it may be."""

    operator: str
    error: float
    tolerance: float

    @property
    def right(self) -> bool:
        """Whether the operator computes what the export counted on."""
        return self.error <= self.tolerance


def check_operators(package: Package, provider: Provider) -> None:
    """Makes sure that operators compute what the export counted on.

    Raises:
        ProviderError: one computes something else; the message names it.
        ManifestError: the package has not the probes that it lists.
    """
    for answer in package_answers(package, provider):
        if not answer.right:
            raise ProviderError(wrong_answer(answer, provider, str(package.path)))


def wrong_answer(answer: Answer, provider: Provider, whose: str) -> str:
    """What is wrong, and what to do."""
    import onnxruntime

    return (
        f"ONNX Runtime {onnxruntime.__version__} computes {answer.operator} otherwise than {whose} needs it (off by "
        f"{answer.error:.2g}, {answer.tolerance:.2g} is allowed); install the version that edgelm is tested with: "
        f"{provider.install}"
    )


def package_answers(package: Package, provider: Provider) -> list[Answer]:
    """What came of each probe of a package.

    Raises:
        ManifestError: the package has not the probes that it lists.
        ProviderError: ONNX Runtime refuses them.
    """
    probes = package.manifest.probes
    return answers(package.path / package.probes, probes, provider) if probes else []


def answers(file: Path, probes: Mapping[str, Mapping[str, Any]], provider: Provider) -> list[Answer]:
    """What came of each probe: `probes` are the outputs of the graph in the file, with their "operator" and "tolerance".

    Raises:
        as `package_answers`.
    """
    graph = file.read_bytes()
    found = _remembered(graph, provider)
    asked = not probes.keys() <= found.keys()
    if asked:
        program = Program(file, provider, threads=1, graph=graph)
        results = program.run({NOTHING: np.zeros((), np.float32)}, program.outputs)
        found = dict(zip(program.outputs, map(float, results), strict=True))
    missing = sorted(set(probes) - set(found))
    if missing:
        raise ManifestError(f"{file} has no probe {', '.join(missing)}; export the package again")
    said = [Answer(probe["operator"], found[name], probe["tolerance"]) for name, probe in probes.items()]
    if asked and all(answer.right for answer in said):  # what is wrong is tried again the next time
        _remember(graph, provider, found)
    return said


@cache
def _environment() -> str:
    """What decides how operators compute, and does not change while a process runs."""
    import onnxruntime

    return "\n".join([onnxruntime.__version__, onnxruntime.get_build_info(), *cpu_features()])


def _place(graph: bytes, provider: Provider) -> Path:
    key = hashlib.sha256(graph + f"{_environment()}\n{provider}".encode()).hexdigest()
    return home.answers_folder() / f"{key}.json"


def _remembered(graph: bytes, provider: Provider) -> dict[str, float]:
    try:
        found = json.loads(_place(graph, provider).read_text(encoding="utf-8"))
        return {str(name): float(error) for name, error in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(graph: bytes, provider: Provider, found: Mapping[str, float]) -> None:
    """A cache folder that cannot be written costs the time of trying again, nothing else."""
    place = _place(graph, provider)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")
