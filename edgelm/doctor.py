"""What a machine has to run packages with, and what is wrong with it: nothing in, one finding after another out."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelm import __version__, cuda, home
from edgelm.errors import EdgeLMError, ProviderError
from edgelm.known_answers import answers
from edgelm.machine import available_memory, cpu_features, physical_cores
from edgelm.manifest import PROBES
from edgelm.providers import PROVIDERS, Provider, check_onnxruntime, installed, missing
from edgelm.verification import operator_check

SHIPPED = "data"  # folder of probes for those that have no package

_OLDEST = (1, 31)  # ONNX Runtime
_LITTLE_MEMORY, _LITTLE_DISK = 1e9, 1e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` says what to do about a problem, and is empty where there is none.

    `fatal` says that nothing can be run at all.
    """

    name: str
    detail: str
    advice: str = ""
    fatal: bool = False


def examine() -> Iterator[Finding]:
    """Looks at one thing after the other; what needs ONNX Runtime is left out where there is none."""
    yield Finding("edgelm", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    try:
        check_onnxruntime()
        import onnxruntime

        version, build = onnxruntime.__version__, onnxruntime.get_build_info()
    except (ProviderError, ImportError) as error:
        yield Finding("ONNX Runtime", "cannot be used", str(error), fatal=True)
    else:
        old = tuple(map(int, version.split(".")[:2])) < _OLDEST
        wanted = f"edgelm needs {_OLDEST[0]}.{_OLDEST[1]} or newer: pip install -U onnxruntime" if old else ""
        yield Finding("ONNX Runtime", f"{version}, {build.removeprefix('ORT Build Info: ')}", wanted)
        usable: list[Provider] = []
        for provider in PROVIDERS.values():
            yield _provider(provider, usable)
        yield from _others(onnxruntime.get_available_providers())
        for provider in usable:
            yield from _operators(provider)
        yield _cuda()
    yield _processor(cpu_features(), platform.machine())
    yield _memory(available_memory())
    yield _cache_folder(home.home())
    yield _exporter()


def _provider(provider: Provider, usable: list[Provider]) -> Finding:
    lacking, name = missing(provider), f"provider {provider.name}"
    if not lacking:
        usable.append(provider)
        return Finding(name, f"{provider.ort_name} is usable")
    return Finding(name, f"{provider.ort_name} is not usable", "; ".join(lacking), fatal=provider.name == "cpu")


def _others(available: list[str]) -> Iterator[Finding]:
    known = {provider.ort_name for provider in PROVIDERS.values()}
    others = [name for name in available if name not in known]
    if others:
        yield Finding("other providers", f"{', '.join(others)}: edgelm does not use them")


def _operators(provider: Provider) -> Iterator[Finding]:
    """Known answers of the operators that packages use most."""
    folder = Path(__file__).parent / SHIPPED
    probes: Mapping[str, Mapping[str, str | float]] = json.loads((folder / "probes.json").read_text(encoding="utf-8"))
    try:
        found = answers(folder / PROBES, probes, provider)
    except EdgeLMError as error:
        yield Finding(f"operators on {provider.name}", "cannot be tried", str(error))
        return
    wrong: list[str] = []
    for operator in dict.fromkeys(answer.operator for answer in found):
        check = operator_check([answer for answer in found if answer.operator == operator], provider, "edgelm")
        if not check.ok:
            wrong.append(operator)
            yield Finding(f"{operator} on {provider.name}", "computes something else", check.detail)
    right = len({answer.operator for answer in found}) - len(wrong)
    yield Finding(f"operators on {provider.name}", f"{right} compute what they should, in {len(found)} settings")


def _cuda() -> Finding:
    """What CUDA's provider would open; what is wrong with it stands beside the provider."""
    version = cuda.driver_version()
    if version is None:
        return Finding("CUDA", "there is no NVIDIA driver, so no GPU to use")
    found = [f"{title} {'found' if there else 'missing'}" for title, there in cuda.libraries().items()]
    return Finding("CUDA", f"a driver for CUDA {version[0]}.{version[1]}; {', '.join(found)}")


def _processor(features: tuple[str, ...], machine: str) -> Finding:
    said = ", ".join(features) or "none of the instruction sets that matter"
    lacking = ""
    if machine.lower() in ("x86_64", "amd64"):
        if "avx2" not in features and sys.platform == "linux":
            lacking = "without AVX2 quantized weights run slower than floats: export with --precision fp32"
        elif not {"avx_vnni", "avx512_vnni"} & set(features) and sys.platform == "linux":
            lacking = "without VNNI products of 8-bit integers are slower: int4 packages suffer least"
    return Finding("processor", f"{machine}: {said}", lacking)


def _memory(available: int | None) -> Finding:
    cores = physical_cores()
    said = f"{cores} cores of {os.cpu_count()} threads may be used"
    if available is None:
        return Finding("threads and memory", f"{said}; the system does not tell its memory")
    advice = "little memory is free: close other programs, or run a smaller model" if available < _LITTLE_MEMORY else ""
    return Finding("threads and memory", f"{said}; {available / 1e6:,.0f} MB of memory are free", advice)


def _cache_folder(folder: Path) -> Finding:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding("cache folder", str(folder), f"{existing} cannot be written: set EDGELM_HOME to another folder")
    free = shutil.disk_usage(existing).free
    advice = "little room: free some, or set EDGELM_HOME to another disk" if free < _LITTLE_DISK else ""
    return Finding("cache folder", f"{folder}, {free / 1e6:,.0f} MB free", advice)


def _exporter() -> Finding:
    needed = ("gguf", "huggingface-hub", "ml_dtypes", "onnx", "onnx-ir", "rich", "safetensors")
    lacking = [name for name in needed if not installed(name)]
    if lacking:
        return Finding("exporter", f"not installed ({', '.join(lacking)}); packages run without it")
    return Finding("exporter", "installed")
