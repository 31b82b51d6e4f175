"""Builds the stand-in for CUDA's libraries (stand_in.c) for an installed onnxruntime-gpu: the names and versions it asks for."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

_SOURCE = Path(__file__).with_name("stand_in.c")
_DRIVER = "libcuda.so.1"

# What TensorRT's provider is linked to. To list the kernels of all providers, ONNX Runtime loads that one as well.
_TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")
_CUDNN = "libcudnn.so.9"


def tools() -> bool:
    """Whether a C compiler and nm are here."""
    return shutil.which("cc") is not None and shutil.which("nm") is not None


def build(folder: Path, libraries: Path, *, tensorrt: bool = False) -> None:
    """Compiles the libraries into `folder`, for what the provider libraries in `libraries` ask for.

    A process that has the folder in LD_LIBRARY_PATH when it starts finds them in the place of CUDA's.
    """
    cuda = _wanted(libraries / "libonnxruntime_providers_cuda.so", r"_*cu")
    cuda.setdefault("libcurand.so.10", [])
    cuda[_DRIVER] = [*cuda.get(_DRIVER, []), "cuDriverGetVersion"]
    cuda["libcudart.so.13"] = [*cuda["libcudart.so.13"], "cudaMemcpy2D", "cudaGetLastError"]
    for soname, names in cuda.items():
        _library(folder, soname, sorted(set(names)))
    # Opened, not linked to; operators ask it by name for what they want.
    binary = (libraries / "libonnxruntime_providers_cuda.so").read_bytes()
    _library(folder, _CUDNN, sorted({name.decode() for name in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", binary)}))
    (folder / "libcudnn.so").symlink_to(_CUDNN)
    if tensorrt:
        asked = _wanted(libraries / "libonnxruntime_providers_tensorrt.so", r"(create|get)\w*(Nv|Infer|Plugin)")
        for soname in _TENSORRT:
            _library(folder, soname, asked[_DRIVER], versioned=False)


def _wanted(library: Path, pattern: str) -> dict[str, list[str]]:
    """Undefined functions of a library by the library whose version they ask for; the driver's for those without one."""
    lines = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    for line in lines.splitlines():
        name, _, version = line.split()[-1].partition("@")
        if re.match(pattern, name):
            found.setdefault(version or _DRIVER, []).append(name)
    return found


def _library(folder: Path, soname: str, names: Iterable[str], *, versioned: bool = True) -> None:
    source, listed = _SOURCE.read_text(encoding="utf-8"), "; ".join(names)
    written = set(re.findall(r"\b(_*cu\w+)\(", source))
    stubs = "".join(
        f"int {name}(void **made) {{ return {'handle(made)' if name.startswith('cudnnCreate') else 'SUCCESS'}; }}\n"
        for name in names
        if name not in written
    )
    code, versions = folder / f"{soname}.c", folder / f"{soname}.map"
    code.write_text(source + stubs, encoding="utf-8")
    versions.write_text(
        f"{soname} {{ global: {listed}; local: *; }};\n" if listed else "{ local: *; };\n", encoding="utf-8"
    )
    flags = ["-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{soname}"]
    # The driver's functions are asked for without a version.
    flags += [] if soname == _DRIVER or not listed or not versioned else [f"-Wl,--version-script={versions}"]
    subprocess.run(["cc", *flags, str(code), "-o", str(folder / soname)], check=True)


def libraries() -> Path:
    """Where the installed ONNX Runtime has its libraries."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise RuntimeError("ONNX Runtime is not installed")
    return Path(spec.origin).parent / "capi"
