"""Runs the probes of a package: small graphs that say how far an operator is from a known answer, on the ONNX Runtime at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgelm.errors import ProviderError
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm.session import Program

NOTHING = "nothing"  # float32 []: the only input, 0
ERROR = "error"  # float32 []: largest difference from the answer, as a share of its largest value


def check_operators(package: Package, provider: Provider) -> None:
    """Makes sure that operators whose meaning no standard fixes compute what the export counted on.

    Raises:
        ProviderError: one computes something else; the message names it.
    """
    for name, probe in package.manifest.probes.items():
        error = _error(_Probe(package.manifest.files[name]["sha256"], provider.name, package.path / name, provider))
        if not error <= probe["tolerance"]:
            import onnxruntime

            raise ProviderError(
                f"ONNX Runtime {onnxruntime.__version__} computes {probe['operator']} otherwise than {package.path} needs it (off by "
                f"{error:.2g}, {probe['tolerance']:.2g} is allowed); install the version that edgelm is tested with: "
                f"{provider.install}"
            )


@dataclass(frozen=True)
class _Probe:
    """What decides the result comes first; the rest is where to find it."""

    sha256: str
    device: str
    file: Path = field(compare=False)
    provider: Provider = field(compare=False)


@cache  # an ONNX Runtime does not change while a process runs
def _error(probe: _Probe) -> float:
    feeds: Mapping[str, Any] = {NOTHING: np.zeros((), np.float32)}
    return float(Program(probe.file, probe.provider, threads=1).run(feeds, [ERROR])[0])
