"""Virtual environments of peers, made from the package index and kept until their requirements change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from machine import machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "benchmarks"

# ggml of llama-cpp-python 0.3.36 dies of an illegal instruction (tilezero) in the code that it has for AMX.
_WITHOUT_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"

_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {name: importlib.metadata.version(name) for name in sys.argv[1:]}
print(json.dumps({"python": platform.python_version(), **found}))
"""


def environment(name: str) -> Path:
    """The interpreter of `.venv-bench-NAME`, installed from requirements-NAME.txt where it is not yet.

    What stands in requirements-NAME-alone.txt, where there is one, is installed without what it says it needs.
    """
    requirements, alone = HERE / f"requirements-{name}.txt", HERE / f"requirements-{name}-alone.txt"
    files = [requirements, *([alone] if alone.exists() else [])]
    folder = ROOT / f".venv-bench-{name}"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    flags = _WITHOUT_AMX if "amx_int8" in machine()["instruction_sets"] else ""
    variables = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore", "CFLAGS": flags, "CXXFLAGS": flags}
    for file in files:
        settings = ["--no-deps"] if file == alone else []
        subprocess.run([*install, *settings, "-r", str(file)], check=True, env=variables)
    stamp.write_text(wanted, encoding="ascii")
    return python


def versions(python: Path, names: list[str]) -> dict[str, str]:
    """Versions of distributions in an environment, and of its Python."""
    found = subprocess.run([str(python), "-c", _VERSIONS, *names], check=True, capture_output=True, text=True)
    return json.loads(found.stdout)
